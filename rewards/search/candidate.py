'''Candidates: rewards in a small language, read from their source and never run in this process.

>>> candidate = parse_candidate("""
... def reward(answer, truth):
...     return {"masks": 2.0 * mask_iou(answer, truth)}
... """)
>>> candidate.needs_masks
True
>>> parse_candidate("import os")
Traceback (most recent call last):
rewards.search.candidate.CandidateRefused: line 1: no import; math and the helpers are there without one
'''

import ast
import hashlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from rewards.search import language
from rewards.search.checks import Refusal, check_module, number_of
from segzero.errors import UserError, one_line


class CandidateRefused(UserError):
    """A source that is not in the language of candidates; says the line and what is wrong there."""


@dataclass(frozen=True)
class Candidate:
    """A reward in the language of candidates; `parse_candidate` makes it."""

    source: str
    constants: dict[str, float] = field(default_factory=dict)  # named numbers at the top of the module
    functions: tuple[str, ...] = ("reward",)
    needs_masks: bool = False  # compares the segmenter's masks

    @property
    def digest(self) -> str:
        """A short name for this source, the same wherever it is read."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]

    @property
    def summary(self) -> str:
        """First line of the module's docstring, or of the reward's; empty without either."""
        tree = ast.parse(self.source)
        places: list[ast.Module | ast.FunctionDef] = [tree]
        places += [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "reward"]
        texts = [ast.get_docstring(place) for place in places]
        return next((printable(text.strip().splitlines()[0]) for text in texts if text and text.strip()), "")


def printable(text: str) -> str:
    """A candidate's text without letters that a terminal would obey.

    >>> printable("red: \\x1b[31m")
    'red:  [31m'
    """
    return "".join(letter if letter.isprintable() else " " for letter in text)


def parse_candidate(source: str) -> Candidate:
    """Parse a candidate's source; nothing of it is run. Raises CandidateRefused in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's, about the source
            tree = _parse(source)
            check_module(tree)
            _compile(tree)
    except Refusal as refusal:
        raise CandidateRefused(f"line {refusal.line}: {refusal.problem}") from None
    constants = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            value = number_of(statement.value)
            assert isinstance(target, ast.Name) and value is not None
            constants[target.id] = value
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return Candidate(
        source,
        constants,
        tuple(node.name for node in tree.body if isinstance(node, ast.FunctionDef)),
        bool(called & set(language.MASK_HELPERS)),
    )


def read_candidate(path: str | Path) -> Candidate:
    """Read a candidate's file."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(4 * language.MAX_SOURCE + 1)
        return parse_candidate(data.decode())
    except OSError as error:
        raise UserError(f"no reward could be read from {path}: {error.strerror or error}; check the path") from None
    except UnicodeDecodeError:
        raise CandidateRefused(f"{path}: it is not UTF-8 text") from None
    except CandidateRefused as error:
        raise CandidateRefused(f"{path}, {error}") from None


def _parse(source: str) -> ast.Module:
    """Parse the source with bounds that hold before Python's own parser looks at it."""
    if len(source) > language.MAX_SOURCE:
        raise Refusal(1, f"a source of {len(source):,} characters; at most {language.MAX_SOURCE:,}")
    depth = 0
    for line, text in enumerate(source.split("\n"), 1):
        for character in text:
            depth += (character in "([{") - (character in ")]}")
            if depth > language.MAX_DEPTH:
                raise Refusal(line, f"more than {language.MAX_DEPTH} brackets inside each other")
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise Refusal(error.lineno or 1, f"no Python: {one_line(error.msg, 120)}") from None
    except (ValueError, MemoryError, RecursionError, OverflowError) as error:
        raise Refusal(1, f"no Python: {one_line(error, 120)}") from None


def _compile(tree: ast.Module) -> None:
    """Refuse what only Python's compiler sees, such as a break outside a loop. The code is thrown away."""
    try:
        compile(tree, "<candidate>", "exec")
    except SyntaxError as error:
        raise Refusal(error.lineno or 1, f"no Python: {one_line(error.msg, 120)}") from None
    except (ValueError, MemoryError, RecursionError, OverflowError) as error:
        raise Refusal(1, f"no Python: {one_line(error, 120)}") from None

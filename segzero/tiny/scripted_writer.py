"""A writer of programs for questions about scenes: an OpenAI-compatible server that reads the questions by rules.

It sees the question alone, never the picture or the truth. A question that its rules don't know goes to the policy
whole, by ASK.

>>> print(program_for("the left two red squares"))
SOME=UNION(FIND("all circles"), FIND("all squares"))
MORE=UNION(SOME, UNION(FIND("all triangles"), FIND("all rings")))
SHAPES=UNION(MORE, FIND("all shapes"))
A=SELECT(SHAPES, "red and roundness > 0.66 and roundness < 0.88")
RESULT(LEFTMOST(A, 2))
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from segzero.programs.writer import QUESTION
from segzero.tiny.questions import PLURAL
from segzero.tiny.scenes import COLOURS, RADII
from segzero.tiny.scripted_server import Answer, serving

NAME = "scripted-writer"
# The shipped policy names things that are not there; what the masks look like, and their colours, sorts them out.
FORMS = {
    "circle": "roundness > 0.88 and holes < 0.12",
    "ring": "holes > 0.12",
    "square": "roundness > 0.66 and roundness < 0.88",
    "triangle": "roundness < 0.66",
    "shape": "",
}
RELATIONS = {"left of": "LEFT_OF", "right of": "RIGHT_OF", "above": "ABOVE", "below": "BELOW"}
EXTREMES = {word: word.upper() for word in ("leftmost", "rightmost", "topmost", "bottommost", "largest", "smallest")}
SIDES = {"left": "LEFTMOST", "right": "RIGHTMOST", "top": "TOPMOST", "bottom": "BOTTOMMOST"}
NUMBERS = {"two": 2, "three": 3, "four": 4}
MANY = PLURAL | {"shape": "shapes"}
SINGULAR = {many: one for one, many in MANY.items()}
PRELUDE = """SOME=UNION(FIND("all circles"), FIND("all squares"))
MORE=UNION(SOME, UNION(FIND("all triangles"), FIND("all rings")))
SHAPES=UNION(MORE, FIND("all shapes"))"""


class Unknown(ValueError):
    """A question that the rules don't know."""


@dataclass
class _Lines:
    """The program's lines so far, and how shapes are found."""

    group: "Group"
    lines: list[str] = field(default_factory=list)
    named: int = 0

    def add(self, call: str) -> str:
        """Add a line; returns its name, the next letter."""
        name = chr(ord("A") + self.named)
        self.named += 1
        self.lines.append(f"{name}={call}")
        return name


Group = Callable[[str, _Lines], str]  # writes the lines for a noun; returns the expression of its shapes


def by_measures(noun: str, lines: _Lines) -> str:
    """Find all shapes, and keep those that look as the noun says, by colour, size and form."""
    words, kind = _words(noun)
    if not lines.lines:
        lines.lines.append(PRELUDE)
    sizes = ["area > 0.034" if word == "large" else "area < 0.034" for word in words if word in RADII]
    conditions = [*(word for word in words if word in COLOURS), *sizes, *filter(None, [FORMS[kind]])]
    return lines.add(f'SELECT(SHAPES, "{" and ".join(conditions)}")') if conditions else "SHAPES"


def by_phrase(noun: str, lines: _Lines) -> str:
    """Find the shapes of a noun by its phrase alone, as the policy names them."""
    words, kind = _words(noun)
    return lines.add(f'FIND("all {" ".join([*words, MANY[kind]])}")')


def program_for(question: str, group: Group = by_measures) -> str:
    """Write the program for a question; ASK where the rules don't know it."""
    text = " ".join(question.lower().strip(" .?!").split())
    lines = _Lines(group)
    try:
        answer = _answer(text, lines)
    except Unknown:
        return f"RESULT(ASK({json.dumps(question)}))"
    return "\n".join([*lines.lines, f"RESULT({answer})"])


def _answer(text: str, lines: _Lines) -> str:
    """The expression that answers a question."""
    if found := re.fullmatch(r"all (.+) except (.+)", text):
        group = lines.group(found[1], lines)
        return f"EXCEPT({group}, {_excluded(found[2], group, lines)})"
    if found := re.fullmatch(rf"the ({_any(SIDES)}) ({_any(NUMBERS)}) (.+)", text):
        return f"{SIDES[found[1]]}({lines.group(found[3], lines)}, {NUMBERS[found[2]]})"
    if found := re.fullmatch(rf"the ({_any(NUMBERS)}) ({_any(EXTREMES)}) (.+)", text):
        return f"{EXTREMES[found[2]]}({lines.group(found[3], lines)}, {NUMBERS[found[1]]})"
    if found := re.fullmatch(rf"the ({_any(EXTREMES)}) (.+)", text):
        return f"{EXTREMES[found[1]]}({_related(found[2], lines)})"
    if found := re.fullmatch(r"(?:the|all) (.+)", text):
        return _related(found[1], lines)
    raise Unknown


def _excluded(text: str, group: str, lines: _Lines) -> str:
    """The part of a group that an exclusion takes away."""
    if found := re.fullmatch(rf"the ({_any(EXTREMES)}) one", text):
        return f"{EXTREMES[found[1]]}({group})"
    if found := re.fullmatch(rf"those ({_any(RELATIONS)}) the (.+)", text):
        return f"{RELATIONS[found[1]]}({group}, {_related(found[2], lines)})"
    if found := re.fullmatch(r"the (.+)", text):
        return _related(found[1], lines)
    raise Unknown


def _related(text: str, lines: _Lines) -> str:
    """A noun, and maybe its relation to another one, which may have a relation itself."""
    found = re.fullmatch(rf"(\w+(?: \w+){{0,2}}?)(?: that is| that are)? ({_any(RELATIONS)}) the (.+)", text)
    if found is None:
        return lines.group(text, lines)
    group, anchor = lines.group(found[1], lines), _related(found[3], lines)
    return lines.add(f"{RELATIONS[found[2]]}({group}, {anchor})")


def _words(noun: str) -> tuple[list[str], str]:
    """Colours and sizes, and the kind, of a noun such as "shape", "red circles" or "large red shape"."""
    *words, kind = noun.split()
    kind = SINGULAR.get(kind, kind)
    if kind not in FORMS or not set(words) <= {*COLOURS, *RADII}:
        raise Unknown
    return words, kind


def _any(words: Any) -> str:
    return "|".join(words)


@dataclass(eq=False)
class ScriptedWriter:
    """The server: it answers each question with its program, and with `broken` errs in the first answer to each."""

    broken: bool = False
    group: Group = by_measures
    port: int = 0
    questions: list[str] = field(default_factory=list)  # that were asked, in order

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.port}/v1"

    @contextmanager
    def running(self) -> Iterator["ScriptedWriter"]:
        """Serve until the block ends."""
        with serving(self.answer, NAME, self.port) as self.port:
            yield self

    def answer(self, body: dict[str, Any]) -> Answer:
        """Answer a chat request: status, headers, JSON."""
        asked = [one["content"] for one in body["messages"] if one["role"] == "user"]
        question = json.loads(asked[0].rpartition(QUESTION)[2])
        self.questions.append(question)
        program = program_for(question, self.group)
        if self.broken and len(asked) == 1:
            program = program.replace("RESULT(", "RESULT(THE_", 1)
        choice = {"index": 0, "message": {"role": "assistant", "content": program}, "finish_reason": "stop"}
        usage = {"prompt_tokens": sum(len(one["content"]) for one in body["messages"]) // 4}
        return 200, {}, {"choices": [choice], "usage": usage | {"completion_tokens": len(program) // 4}}

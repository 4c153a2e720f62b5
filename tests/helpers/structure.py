"""The structure of the code, read from its syntax trees: imports, docstrings, sizes and names.

`python -m tests.helpers.structure segzero/serving` prints what breaks a rule there.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

# The floors of the house: a module imports from its own floor and from those before it.
FLOORS = (
    ("segzero", "segzero.errors"),
    ("segzero.io", "segzero.shipped", "segzero.device", "segzero.machine", "segzero.lru", "segzero.extras"),
    ("segzero.frames", "segzero.image_structure", "segzero.images", "segzero.masks"),
    ("segzero.answer", "segzero.prompts", "segzero.solution"),
    ("segzero.sample", "segzero.data.parquet", "segzero.data.safe_parquet"),
    ("rewards",),
    ("segzero.policy", "segzero.segmenter", "segzero.mask_model", "segzero.viz"),
    ("segzero.result",),
    (
        "segzero.pipeline",
        "segzero.mask_pipeline",
        "segzero.point_prompts",
        "segzero.words",
        "segzero.batch_inference",
        "segzero.batch_everything",
        "segzero.votes",
        "segzero.several_answers",
    ),
    ("segzero.data",),
    ("segzero.dialogue", "segzero.programs"),
    ("segzero.refinement",),
    ("segzero.evaluation",),
    ("segzero.training",),
    ("segzero.reward_search",),
    ("segzero.supervised",),
    ("segzero.tiny",),
    ("segzero.serving",),
    ("segzero.cli", "segzero.__main__"),
)
# A docstring's first line is read alone, in an editor's tooltip: a noun phrase, or an imperative with its object.
NOT_FIRST = re.compile(
    r"(What|Who|Whom|Whose|Whoever|Whatever|Where|When|Why|How|Of|As|By|With|In|Into|On|At|To|From|Its|Their|Those|"
    r"These|This|That|It|They|He|She|Ours|Theirs)\b|"
    r"(The same|The next one|The others?|The ones? (that|which|of|with))\b|"
    r"(All|Each|Both|Some|One|None|Any|Every one) of (them|it|these|those)\b"
)
LONGEST_FUNCTION, MOST_PARAMETERS, LONGEST_FILE = 60, 12, 600
TOKENIZERS = {"segzero.answer._read"}  # these may be longer


@dataclass(frozen=True)
class Module:
    """A Python file of the packages, with its dotted name and syntax tree."""

    name: str
    path: Path
    tree: ast.Module
    lines: int


@cache
def modules() -> dict[str, Module]:
    """Every module of segzero and rewards, by dotted name."""
    found = {}
    for package in ("segzero", "rewards"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            text = path.read_text()
            found[name] = Module(name, path, ast.parse(text), text.count("\n"))
    return found


def imports(module: Module) -> set[str]:
    """The modules of ours that a module imports, inside functions too."""
    known, found = modules(), set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = names & known.keys()
            found |= submodules if len(submodules) == len(names) else {*submodules, str(node.module)}
    lazy = found if module.name == "segzero" else set()  # the public names of the package itself
    return found - {module.name} - lazy


def floor_of(name: str) -> int:
    """The floor that a module stands on: that of the longest name in FLOORS that it begins with."""
    places = {entry: floor for floor, entries in enumerate(FLOORS) for entry in entries}
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in places and (prefix != "segzero" or name == "segzero"):
            return places[prefix]
    raise LookupError(f"{name} stands on no floor of tests/helpers/structure.py; give it one")


def imports_upwards() -> list[str]:
    """Imports of a module on a higher floor."""
    return [
        f"{name} -> {target}"
        for name, module in modules().items()
        for target in sorted(imports(module))
        if floor_of(target) > floor_of(name)
    ]


def circles() -> list[list[str]]:
    """Modules that import each other, directly or through others."""
    graph = {name: imports(module) for name, module in modules().items()}
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            if (name := waiting.pop()) not in seen:
                seen.add(name)
                waiting += graph[name]
        reached[start] = seen
    groups = {tuple(sorted({other for other in reached[a] if a in reached[other]})) for a in graph if a in reached[a]}
    return [list(group) for group in sorted(groups)]


def definitions(module: Module) -> Iterator[tuple[str, Definition]]:
    """Functions, methods and classes with their dotted names."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Definition):
                yield f"{prefix}.{child.name}", child
                yield from walk(child, f"{prefix}.{child.name}")
            elif not isinstance(child, ast.expr):
                yield from walk(child, prefix)

    return walk(module.tree, module.name)


def obscure_docstrings() -> list[str]:
    """Docstrings whose first line is not a noun phrase or an imperative."""
    found = []
    for module in modules().values():
        for name, node in [(module.name, module.tree), *definitions(module)]:
            text = (ast.get_docstring(node) or "").strip()
            if NOT_FIRST.match(text):
                found.append(f"{name}: {text.splitlines()[0]}")
    return found


def repeated_classes() -> dict[str, list[str]]:
    """Public class names that several modules define."""
    places = defaultdict(list)
    for module in modules().values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module.name)
    return {name: where for name, where in places.items() if len(where) > 1}


def too_large() -> list[str]:
    """Files, functions and parameter lists beyond their bounds."""
    found = []
    for module in modules().values():
        if module.lines > LONGEST_FILE:
            found.append(f"{module.name}: {module.lines} lines")
        for name, node in definitions(module):
            if isinstance(node, ast.ClassDef):
                continue
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION and name not in TOKENIZERS:
                found.append(f"{name}: {length} lines")
            arguments = node.args
            count = len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs])
            count -= bool(arguments.args) and arguments.args[0].arg in ("self", "cls")
            if count > MOST_PARAMETERS:
                found.append(f"{name}: {count} parameters")
    return found


def main(places: list[str]) -> None:
    """Print every broken rule in these folders or files."""
    wanted = tuple(place.removesuffix(".py").rstrip("/").replace("/", ".") for place in places) or (
        "segzero",
        "rewards",
    )
    for rule in (imports_upwards, obscure_docstrings, too_large):
        print(*[f"{rule.__name__}: {line}" for line in rule() if line.startswith(wanted)], sep="\n")
    print(*[f"circle: {circle}" for circle in circles()], sep="\n")
    print(*[f"twice: {name} in {where}" for name, where in repeated_classes().items()], sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])

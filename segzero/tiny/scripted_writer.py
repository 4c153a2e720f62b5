"""A writer of programs for questions about scenes: an OpenAI-compatible server that reads the questions by rules.

It sees the question alone, never the picture or the truth. A question that its rules don't know goes to the policy
whole, by ASK.

>>> print(program_for("the left two red squares"))
MANY=UNION(FIND("all circles"), FIND("all squares"))
MORE=UNION(MANY, UNION(FIND("all triangles"), FIND("all rings")))
SHAPES=UNION(MORE, FIND("all shapes"))
A=SELECT(SHAPES, "red and roundness > 0.66 and roundness < 0.88")
RESULT(LEFTMOST(A, 2))
"""

import json
import re
from collections.abc import Iterator
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
SINGULAR = {many: one for one, many in PLURAL.items()} | {"shapes": "shape"}
PRELUDE = """MANY=UNION(FIND("all circles"), FIND("all squares"))
MORE=UNION(MANY, UNION(FIND("all triangles"), FIND("all rings")))
SHAPES=UNION(MORE, FIND("all shapes"))"""


class Unknown(ValueError):
    """A question that the rules don't know."""


@dataclass
class _Lines:
    """The program's lines so far."""

    lines: list[str] = field(default_factory=lambda: [PRELUDE])

    def add(self, call: str) -> str:
        """Add a line; returns its name."""
        name = chr(ord("A") + len(self.lines) - 1)
        self.lines.append(f"{name}={call}")
        return name


def program_for(question: str) -> str:
    """Write the program for a question; ASK where the rules don't know it."""
    text = " ".join(question.lower().strip(" .?!").split())
    lines = _Lines()
    try:
        answer = _answer(text, lines)
    except Unknown:
        return f"RESULT(ASK({json.dumps(question)}))"
    return "\n".join([*lines.lines, f"RESULT({answer})"])


def _answer(text: str, lines: _Lines) -> str:
    """The expression that answers a question."""
    if found := re.fullmatch(r"all (.+) except (.+)", text):
        group = _group(found[1], lines)
        return f"EXCEPT({group}, {_excluded(found[2], group, lines)})"
    if found := re.fullmatch(rf"the ({_any(SIDES)}) ({_any(NUMBERS)}) (.+)", text):
        return f"{SIDES[found[1]]}({_group(found[3], lines)}, {NUMBERS[found[2]]})"
    if found := re.fullmatch(rf"the ({_any(NUMBERS)}) ({_any(EXTREMES)}) (.+)", text):
        return f"{EXTREMES[found[2]]}({_group(found[3], lines)}, {NUMBERS[found[1]]})"
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
        return _group(text, lines)
    group, anchor = _group(found[1], lines), _related(found[3], lines)
    return lines.add(f"{RELATIONS[found[2]]}({group}, {anchor})")


def _group(noun: str, lines: _Lines) -> str:
    """The shapes of a noun such as "shape", "red circles" or "large red shape"."""
    *words, kind = noun.split()
    form = FORMS.get(SINGULAR.get(kind, kind))
    if form is None or not set(words) <= {*COLOURS, *RADII}:
        raise Unknown
    sizes = ["area > 0.034" if word == "large" else "area < 0.034" for word in words if word in RADII]
    conditions = [*(word for word in words if word in COLOURS), *sizes, *([form] if form else [])]
    return lines.add(f'SELECT(SHAPES, "{" and ".join(conditions)}")') if conditions else "SHAPES"


def _any(words: Any) -> str:
    return "|".join(words)


@dataclass(eq=False)
class ScriptedWriter:
    """The server: it answers each question with its program, and with `broken` errs in the first answer to each."""

    broken: bool = False
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
        program = program_for(question)
        if self.broken and len(asked) == 1:
            program = program.replace("RESULT(", "RESULT(THE_", 1)
        choice = {"index": 0, "message": {"role": "assistant", "content": program}, "finish_reason": "stop"}
        usage = {"prompt_tokens": sum(len(one["content"]) for one in body["messages"]) // 4}
        return 200, {}, {"choices": [choice], "usage": usage | {"completion_tokens": len(program) // 4}}

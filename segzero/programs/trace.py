"""Traces of programs: a row for each step, as values, as JSON and as one page.

>>> trace = run_program(pipeline, image, program)                                 # doctest: +SKIP
>>> [(row.step.text, row.summary) for row in trace.rows]                          # doctest: +SKIP
[('FIND("mugs")', '2 objects of 5316, 4120 pixels'), ('RESULT(A)', '2 objects of 5316, 4120 pixels')]
>>> trace.save("out", "desk")["html"]                                             # doctest: +SKIP
PosixPath('out/desk_trace.html')
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from segzero.errors import UserError, one_line
from segzero.io import write_atomically
from segzero.programs.parser import Program, Step, parse_program
from segzero.programs.values import ProgramError, from_json, summary_of, to_json
from segzero.result import InstanceMask, Segmentation
from segzero.viz.everything import draw_everything
from segzero.viz.html import page, picture, text
from segzero.viz.mask_pictures import DARK, captioned, grid
from segzero.viz.overlay import draw_overlay

PROGRAM_ERROR = "program_error"  # the error of a result whose program failed
FILES = {"html": "_trace.html", "json": "_trace.json"}
WIDTH = 300  # pixels of a step's picture
MOST_DRAWN = 256  # objects in a step's picture
CAPTION = 60  # pixels above each picture of a sheet, for its text


@dataclass(frozen=True)
class Attempt:
    """A program that a language model wrote, and why it could not be read; empty for the one that was run."""

    source: str
    problem: str = ""


@dataclass(frozen=True, eq=False)
class TraceRow:
    """One step that was run, and its value."""

    step: Step
    value: Any = field(repr=False)
    seconds: float
    note: str = ""  # the policy's thinking

    @property
    def summary(self) -> str:
        """The value in a few words."""
        return summary_of(self.value, self.step.gives)

    @property
    def line_of_text(self) -> str:
        """The step in one line."""
        named = f"{self.step.name}=" if self.step.name else ""
        return f"{named}{self.step.text}: {self.summary} ({1000 * self.seconds:.0f} ms)"

    def picture(self, image: Image.Image) -> Image.Image | None:
        """Draw the value on the picture; None for numbers and words."""
        match self.step.gives:
            case "Masks":
                return draw_everything(image, self.value[:MOST_DRAWN])
            case "Image":
                part: Image.Image = self.value.image
                return part
            case "Boxes":
                return draw_overlay(image, [_drawn(image, box=box) for box in self.value[:MOST_DRAWN]])
            case "Points":
                return draw_overlay(image, [_drawn(image, points=self.value[:MOST_DRAWN])], boxes=False)
        return None

    def to_dict(self) -> dict[str, Any]:
        """Convert into plain types for JSON."""
        return {
            "line": self.step.line,
            "name": self.step.name,
            "text": self.step.text,
            "operator": self.step.operator.name,
            "type": self.step.gives,
            "summary": self.summary,
            "value": to_json(self.value, self.step.gives),
            "milliseconds": round(1000 * self.seconds, 1),
            "note": self.note,
        }


@dataclass(frozen=True, eq=False)
class Trace:
    """A program's run on one picture, whole or up to the step that failed.

    Attributes:
        image: the picture, RGB.
        question: that a language model wrote the program for; empty without one.
        program: None if none could be read.
        rows: the steps that were run, in order.
        attempts: programs that were written for the question, the last one being the one that was run.
        problem: why there is no result; empty if there is one.
        line: that failed, counted from 1; 0 if no line is to blame.
        seconds: that all of it took.
    """

    image: Image.Image = field(repr=False)
    question: str
    program: Program | None
    rows: tuple[TraceRow, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    problem: str = ""
    line: int = 0
    seconds: float = 0.0

    @property
    def source(self) -> str:
        """The program's text, also if it could not be read."""
        if self.program is not None:
            return self.program.source
        return self.attempts[-1].source if self.attempts else ""

    @property
    def value(self) -> Any:
        """The result: objects, a number or words; None if the program failed."""
        return None if self.problem else self.rows[-1].value

    @property
    def type(self) -> str:
        """Type of the result; empty if the program failed."""
        return "" if self.problem else self.rows[-1].step.gives

    @property
    def failure(self) -> str:
        """The problem with its line; empty if there is a result."""
        return str(ProgramError(self.problem, self.line)) if self.problem else ""

    @cached_property
    def segmentation(self) -> Segmentation:
        """The result as that of a question; a program that ends in a number or in words has no masks, and fails."""
        problem = self.failure
        if not problem and self.type != "Masks":
            problem = f"the program's result is a {self.type}, not Masks"
        return Segmentation(
            self.image,
            self.question,
            () if problem else tuple(one.instance() for one in self.value),
            think="\n".join([*(row.line_of_text for row in self.rows), *([f"failed: {problem}"] if problem else [])]),
            raw_text=self.source,
            error=PROGRAM_ERROR if problem else None,
            problem=problem,
            timings={"program": self.seconds},
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert into plain types for JSON."""
        return {
            "question": self.question,
            "program": self.source,
            "width": self.image.width,
            "height": self.image.height,
            "steps": [row.to_dict() for row in self.rows],
            "type": self.type,
            "result": to_json(self.value, self.type) if self.type else None,
            "error": {"message": self.problem, "line": self.line} if self.problem else None,
            "attempts": [{"program": one.source, "error": one.problem or None} for one in self.attempts],
            "seconds": round(self.seconds, 3),
        }

    @staticmethod
    def from_dict(content: dict[str, Any], image: Image.Image) -> "Trace":
        """Restore a trace on its picture from what `to_dict` made, of which nothing is trusted."""
        try:
            source, failed = content["program"], content["error"] or {}
            attempts = tuple(Attempt(one["program"], one["error"] or "") for one in content["attempts"])
            program = parse_program(source) if content["steps"] or not failed else None
            steps = program.steps if program else ()
            if len(content["steps"]) > len(steps) or (not failed and len(content["steps"]) < len(steps)):
                raise ValueError("it has other steps than its program")
            rows = tuple(
                TraceRow(step, from_json(one["value"], step.gives, image), one["milliseconds"] / 1000, one["note"])
                for step, one in zip(steps, content["steps"], strict=False)
            )
            problem, line = failed.get("message", ""), int(failed.get("line", 0))
            return Trace(image, content["question"], program, rows, attempts, problem, line, content["seconds"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"this is no trace of a program: {one_line(error)}") from error

    def html(self) -> str:
        """Write the trace as one page with its pictures inside."""
        name = self.question or "a program"
        body = [f"<h1>{text(name)}</h1>", picture(self.image, 2 * WIDTH // 3), f"<pre>{text(self.source)}</pre>"]
        for attempt in self.attempts[:-1]:
            problem = text(f"An earlier program could not be read: {attempt.problem}")
            body.append(f"<details><summary>{problem}</summary><pre>{text(attempt.source)}</pre></details>")
        body.append(_table([self._cells(row) for row in self.rows]))
        if self.problem:
            body.append(f"<p><b>Failed:</b> {text(self.failure)}</p>")
        return page(f"Trace: {name}", f"<style>{STYLE}</style>" + "\n".join(body))

    def sheet(self, columns: int = 3, width: int = 320) -> Image.Image:
        """Draw the steps with a name and the result beside each other, each `width` pixels wide below its text."""
        size = width, max(1, round(self.image.height * width / self.image.width))
        tiles = []
        for row in self.rows:
            if (row.step.name or row is self.rows[-1]) and (drawn := row.picture(self.image)) is not None:
                tile = Image.new("RGB", (width, size[1] + CAPTION), DARK)
                tile.paste(drawn.resize(size, Image.Resampling.LANCZOS), (0, CAPTION))
                named = f"{row.step.name}=" if row.step.name else ""
                tiles.append(captioned(tile, f"{named}{row.step.text}"))
        rows = [tiles[at : at + columns] for at in range(0, len(tiles), columns)]
        return grid(rows) if rows else self.image.copy()

    def _cells(self, row: TraceRow) -> list[str]:
        named = f"{row.step.name} = " if row.step.name else ""
        drawn = row.picture(self.image)
        note = f"<br><small>{text(row.note)}</small>" if row.note else ""
        return [
            str(row.step.line),
            f"<code>{text(named + row.step.text)}</code>{note}",
            row.step.gives,
            text(row.summary),
            f"{1000 * row.seconds:.0f}",
            picture(drawn, min(WIDTH, max(drawn.width, 60))) if drawn is not None else "",
        ]

    def save(self, folder: str | Path, name: str = "program") -> dict[str, Path]:
        """Write NAME_trace.html and NAME_trace.json, each whole or not at all."""
        contents = {"html": self.html(), "json": json.dumps(self.to_dict(), ensure_ascii=False, indent=1)}
        return {
            kind: write_atomically(Path(folder) / f"{name}{FILES[kind]}", content.encode("utf-8", "backslashreplace"))
            for kind, content in contents.items()
        }


def _drawn(image: Image.Image, box: Any = (0.0, 0.0, 0.0, 0.0), points: Sequence[Any] = ()) -> InstanceMask:
    """Something to draw that has no mask."""
    import numpy as np

    return InstanceMask(np.zeros((image.height, image.width), bool), box, tuple(points))


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{name}" for name in ("line", "step", "type", "value", "ms", "picture"))
    return f"<table><tr>{head}" + "".join("<tr>" + "".join(f"<td>{c}" for c in row) for row in rows) + "</table>"


STYLE = (
    "pre { overflow-x: auto } td code { white-space: pre-wrap } table { max-width: 100% } td img { max-width: 300px }"
)

"""The numbers of a run, `metrics.jsonl`: one line per step, which a resumed run continues.

A kill or a full disk may leave the beginning of a line. The next line is written on a line of its own, and readers
pass over the torn one.

>>> read_rows(Path("no such file"))
[]
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segzero.io import append_line

NAME = "metrics.jsonl"


def append(file: Path, step: int, data: Mapping[str, Any]) -> None:
    """Add the line of a step."""
    row = {"step": step, "data": {name: float(value) for name, value in data.items()}}
    append_line(file, json.dumps(row).encode() + b"\n")


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows that are whole: {"step": ..., "data": {name: number}}."""
    if not file.is_file():
        return []
    rows = (_row(line) for line in file.read_bytes().splitlines())
    return [row for row in rows if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        numbers = all(isinstance(value, int | float) for value in row["data"].values())
        return row if isinstance(row["step"], int) and numbers else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None

"""Views of a case: the plain values that a candidate sees of an answer and its truth.

The sandbox's worker makes them of the JSON that `payload.py` writes. Only the fields in `language.FIELDS` can be named
by a candidate; the others serve the helpers.
"""

from dataclasses import dataclass
from typing import Any

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in the 840 frame
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ObjectView:
    """An object of the answer, or a true one."""

    box: Box | None
    points: tuple[Point, ...]
    area: float  # share of the image
    place: int  # in its list
    mask_ious: tuple[float, ...] = ()  # of an answer's object: with every true one; empty where no masks were drawn


@dataclass(frozen=True, slots=True)
class AnswerView:
    """An answer as a candidate sees it."""

    readable: bool
    error: str | None
    warnings: tuple[str, ...]
    think: str
    words: int
    instances: tuple[ObjectView, ...]
    mask_iou: float  # of all masks together


def views_of(payload: dict[str, Any]) -> tuple[AnswerView, tuple[ObjectView, ...]]:
    """Make the two arguments of a candidate's `reward`."""
    answer = AnswerView(
        payload["readable"],
        payload["error"],
        tuple(payload["warnings"]),
        payload["think"],
        payload["words"],
        _objects(payload["instances"]),
        payload["mask_iou"],
    )
    return answer, _objects(payload["truth"])


def _objects(rows: list[dict[str, Any]]) -> tuple[ObjectView, ...]:
    return tuple(
        ObjectView(
            tuple(row["box"]) if row["box"] else None,
            tuple((x, y) for x, y in row["points"]),
            row["area"],
            place,
            tuple(row["mask_ious"]),
        )
        for place, row in enumerate(rows)
    )

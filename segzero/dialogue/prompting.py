"""Records that hold their earlier rounds themselves, as a `Sample` does in `turns`: for training and evaluation.

>>> registry = registry_of(({"question": "the cup", "boxes": [[10, 20, 60, 80]]},), (100, 100))
>>> prepared = recall("what is left of [REF:1]", registry, Frame("stretch", 840))
>>> prepared.question
'what is left of <box>[84, 168, 504, 672]</box>'
>>> prepared.notes.splitlines()[1]
'round 1, "the cup": <box>[84, 168, 504, 672]</box>'
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from segzero.answer import Answer
from segzero.dialogue.memory import RECENT, PromptContext, write_text
from segzero.dialogue.references import read_question, references_in
from segzero.dialogue.registry import Region, Registry, Round
from segzero.errors import UserError
from segzero.frames import Frame, Size
from segzero.masks import RLE, Box, Point, decode, from_polygons, points_of
from segzero.pipeline import in_pixels


def registry_of(turns: Sequence[Mapping[str, Any]], size: Size) -> Registry:
    """Earlier rounds as a dialogue has them; a turn without boxes is a round whose answer could not be read.

    A turn is {"question", "boxes", and maybe "points" and "masks" for each box}. A box without a mask is its own; one
    without points has the mask's.
    """
    registry = Registry(size)
    for number, turn in enumerate(turns, 1):
        try:
            registry = registry.add(_round(registry, number, turn))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            raise UserError(
                f"its round {number} can't be read: a turn has a question, and boxes of four numbers"
            ) from None
    return registry


def answered(registry: Registry, question: str, answer: Answer, frame: Frame) -> Registry:
    """The registry with a round that a policy answered, not drawn: the history is then the policy's own."""
    number, size = len(registry.rounds) + 1, registry.size
    if answer.error is not None:
        return registry.add(Round(number, question, error=answer.error))
    placed = [in_pixels(instance, frame, size) for instance in answer.instances]
    regions = _regions(registry, question, [box for box, _ in placed], [points for _, points in placed])
    return registry.add(Round(number, question, regions, think=answer.think))


def recall(question: str, registry: Registry, frame: Frame, recent: int = RECENT) -> PromptContext:
    """What a policy is asked after these rounds, told as text: the very prompt of a dialogue."""
    return write_text(read_question(question, registry), registry, frame, recent)


def is_nothing(question: str, registry: Registry) -> bool:
    """True when all that the question refers to was found to be nothing: so is its answer, and nobody is asked."""
    references = references_in(read_question(question, registry))
    return bool(references) and all(reference.empty for reference in references)


def _round(registry: Registry, number: int, turn: Mapping[str, Any]) -> Round:
    question, boxes = str(turn["question"]), turn.get("boxes")
    if boxes is None:
        return Round(number, question, error="no_answer")
    boxes = [_box(box) for box in boxes]
    masks = list(turn.get("masks") or [None] * len(boxes))
    told = turn.get("points") or [()] * len(boxes)
    points = [
        tuple(_point(point) for point in each) or (points_of(decode(rle, registry.size)) if rle else ())
        for each, rle in zip(told, masks, strict=True)
    ]
    return Round(number, question, _regions(registry, question, boxes, points, masks))


def _regions(
    registry: Registry,
    question: str,
    boxes: Sequence[Box],
    points: Sequence[tuple[Point, ...]],
    masks: Sequence[RLE | None] | None = None,
) -> tuple[Region, ...]:
    first, round = len(registry.regions) + 1, len(registry.rounds) + 1
    masks = masks or [None] * len(boxes)
    return tuple(
        Region(
            first + place,
            round,
            question,
            box,
            inside,
            (1,) * len(inside),
            rle or _filled(box, registry.size),
            0.0,
        )
        for place, (box, inside, rle) in enumerate(zip(boxes, points, masks, strict=True))
    )


def _box(values: Sequence[float]) -> Box:
    x0, y0, x1, y1 = (_finite(value) for value in values)
    return x0, y0, x1, y1


def _point(values: Sequence[float]) -> Point:
    x, y = (_finite(value) for value in values)
    return x, y


def _finite(value: float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number


def _filled(box: Box, size: Size) -> RLE:
    x0, y0, x1, y1 = box
    return from_polygons([[x0, y0, x1, y0, x1, y1, x0, y1]], size)

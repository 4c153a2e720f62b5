"""Helpers that a candidate may call: plain Python, bounded in time and memory.

>>> iou((0, 0, 10, 10), (0, 0, 10, 5)), l1((0, 0, 10, 10), (0, 0, 10, 6))
(0.5, 1.0)
>>> mean([]), clip(3, 0, 1), ratio(2, 4), ratio(0, 0)
(0.0, 1, 0.5, 1.0)
"""

import builtins
import math
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from rewards.search import language
from rewards.search.views import AnswerView, Box, ObjectView, Point


def box_area(box: Box) -> float:
    """Area of a box, in square pixels; 0 for one that is inside out."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def iou(a: Box, b: Box) -> float:
    """IoU of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = width * height if width > 0 and height > 0 else 0.0
    total = box_area(a) + box_area(b) - shared
    return shared / total if total > 0 else 0.0


def l1(a: Box, b: Box) -> float:
    """Mean of the four absolute differences of two boxes."""
    return (abs(a[0] - b[0]) + abs(a[1] - b[1]) + abs(a[2] - b[2]) + abs(a[3] - b[3])) / 4


def inside(point: Point, box: Box) -> bool:
    """True for a point in a box, its edges included."""
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def distance(a: Point, b: Point) -> float:
    """Distance of two points."""
    return math.dist(a, b)


def matched(instances: Sequence[ObjectView], truth: Sequence[ObjectView]) -> list[tuple[ObjectView, ObjectView]]:
    """Pair objects one to one: the most overlapping boxes first, none that overlap nothing.

    Equal overlaps are taken in the order of their boxes, so that the order of the objects does not matter.
    """
    overlaps = [
        (-iou(one.box, other.box), one.box, other.box, i, j)
        for i, one in enumerate(instances)
        for j, other in enumerate(truth)
        if one.box is not None and other.box is not None
    ]
    pairs: list[tuple[ObjectView, ObjectView]] = []
    used: tuple[set[int], set[int]] = (set(), set())
    for overlap, _, _, i, j in sorted(overlaps):
        if overlap < 0 and i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            pairs.append((instances[i], truth[j]))
    return pairs


def mask_iou(answer: AnswerView, truth: Sequence[ObjectView]) -> float:
    """IoU of all drawn masks together with all true ones; of the boxes, where no masks were drawn."""
    return answer.mask_iou


def pair_mask_iou(instance: ObjectView, target: ObjectView) -> float:
    """IoU of the masks of an answer's object and a true one; of their boxes, where no masks were drawn."""
    if target.mask_ious:
        instance, target = target, instance
    if instance.mask_ious:
        return instance.mask_ious[target.place]
    return iou(instance.box, target.box) if instance.box and target.box else 0.0


def mean(numbers: Iterable[float]) -> float:
    """Mean of numbers; 0 if there are none."""
    values = list(numbers)
    return sum(values) / len(values) if values else 0.0


def clip(x: float, low: float, high: float) -> float:
    """Hold a number between two others."""
    return max(low, min(high, x))


def ratio(a: float, b: float) -> float:
    """Smaller number over the larger; 1 if both are 0, and 0 if one of them is, or is negative."""
    if a == b:
        return 1.0
    return min(a, b) / max(a, b) if min(a, b) > 0 else 0.0


def bounded_range(*bounds: int) -> range:
    """A `range` of at most `language.MAX_RANGE` numbers."""
    numbers = range(*bounds)
    if len(numbers) > language.MAX_RANGE:
        raise ValueError(f"a range of more than {language.MAX_RANGE:,} numbers")
    return numbers


def bounded_round(x: float, digits: int | None = None) -> float:
    """`round` to at most 12 digits: whole numbers with many zeros would take for ever."""
    if digits is not None and not abs(digits) <= 12:
        raise ValueError(f"rounding to {digits} digits; at most 12")
    return round(x, digits)


def names() -> dict[str, Any]:
    """Names that a candidate's module begins with, `__builtins__` among them."""
    listed = {name: getattr(builtins, name) for name in language.BUILTINS}
    listed |= {"range": bounded_range, "round": bounded_round}
    of_math = SimpleNamespace(
        **{name: getattr(math, name) for name in (*language.MATH_FUNCTIONS, *language.MATH_NUMBERS)}
    )
    return {"__builtins__": listed, "math": of_math} | {name: globals()[name] for name in language.HELPERS}

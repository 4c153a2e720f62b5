"""The terms of Seg-Zero and VisionReasoner, number for number, on malformed responses too.

Each term parses the raw text in its own way, and strictly: as published, any error while a response is parsed makes
that one term 0, and an empty prediction or an empty truth has no accuracy. Text on which the published code takes
minutes (a megabyte of brackets) is parsed here in linear time with the same result.

A response in another frame than 840x840 is scaled after parsing; a truth of one point counts as two.
"""

import json
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewards.case import Case
from rewards.matching import assign
from segzero.answer import Instance
from segzero.errors import UserError

MAX_OBJECTS = 120  # predicted or true; the rest is cut off
Array = NDArray[Any]  # of whatever type the answer's numbers have
_OBJECT = re.compile(r"\{[^}]+\}")

# Seg-Zero: one object, {"bbox": ..., "points_1": ..., "points_2": ...}


def loose_format(case: Case) -> float:
    """1 if a key with "bbox" holds four things and two keys with "point" hold two each, else 0. Source: Seg-Zero."""
    with suppress(Exception):
        data = _first_object(case.response)
        box_key = next(key for key in data if "bbox" in key.lower())
        first, second = [key for key in data if key != box_key and "point" in key.lower()][:2]
        return float(len(data[box_key]) == 4 and len(data[first]) == 2 and len(data[second]) == 2)
    return 0.0


def strict_format(case: Case) -> float:
    """1 if the keys bbox, points_1, points_2 hold lists of 4, 2 and 2 things, else 0. Source: Seg-Zero (strict)."""
    with suppress(Exception):
        data = _first_object(case.response)
        wanted = {"bbox": 4, "points_1": 2, "points_2": 2}
        return float(all(isinstance(data[key], list) and len(data[key]) == n for key, n in wanted.items()))
    return 0.0


def one_box_iou(case: Case, strict: bool = False) -> float:
    """1 if the IoU of the boxes is above 1/2, widths counted as x1 - x0 + 1, else 0. Source: Seg-Zero."""
    true = _only_object(case)
    with suppress(Exception):
        box = _box(_first_object(case.response), case.scale, strict)
        x0, y0 = max(box[0], true.box[0]), max(box[1], true.box[1])
        x1, y1 = min(box[2], true.box[2]), min(box[3], true.box[3])
        shared = (x1 - x0 + 1) * (y1 - y0 + 1) if x0 < x1 and y0 < y1 else 0
        return float(shared / (_area(box) + _area(true.box) - shared) > 0.5)
    return 0.0


def one_box_near(case: Case, strict: bool = False) -> float:
    """1 if the mean of the four absolute differences is below 10 pixels, else 0. Source: Seg-Zero."""
    true = _only_object(case)
    with suppress(Exception):
        box = _box(_first_object(case.response), case.scale, strict)
        left, top, right, bottom = (abs(p - t) for p, t in zip(box, true.box, strict=True))
        return float((left + top + right + bottom) / 4 < 10)
    return 0.0


def two_points_near(case: Case, strict: bool = False) -> float:
    """1 if both points lie in the predicted box, on average under 100 pixels from the true two, else 0.

    The points are paired the better way round, and cut to whole numbers first. Source: Seg-Zero.
    """
    true = _only_object(case)
    if not true.points and case.truth:
        raise UserError("a true object has no point; the presets of Seg-Zero need two")
    with suppress(Exception):
        data = _first_object(case.response)
        x0, y0, x1, y1 = _box(data, case.scale, strict)
        keys = ["points_1", "points_2"] if strict else [key for key in data if "points" in key.lower()][:2]
        sx, sy = case.scale
        a, b = [(int(data[key][0]) * sx, int(data[key][1]) * sy) for key in keys]
        if not all(x0 <= x <= x1 and y0 <= y <= y1 for x, y in (a, b)):
            return 0.0
        c, d = true.points[0], true.points[1 if len(true.points) > 1 else 0]
        return float(min(_far(a, c) + _far(b, d), _far(a, d) + _far(b, c)) / 2 < 100)
    return 0.0


def _only_object(case: Case) -> Instance:
    """Single true object; for an empty truth one without numbers, on which every term fails and is 0."""
    if len(case.truth) > 1:
        raise UserError(f"the presets of Seg-Zero score one object, this truth has {len(case.truth)}; use another")
    return case.truth[0] if case.truth else Instance(())  # type: ignore[arg-type]


def _first_object(text: str) -> dict[str, Any]:
    """Parse the first {...} as JSON. Looking no further than the last brace keeps the search linear."""
    found = _OBJECT.search(text, 0, text.rfind("}") + 1)
    assert found
    data: dict[str, Any] = json.loads(found[0])  # an object, as the pattern begins with a brace
    return data


def _box(data: dict[str, Any], scale: tuple[float, float], strict: bool) -> Sequence[Any]:
    """The box's four values in the 840 frame; raises where there aren't four."""
    box = data["bbox" if strict else next(key for key in data if "bbox" in key.lower())]
    if len(box) != 4:
        raise ValueError
    x0, y0, x1, y1 = box[0], box[1], box[2], box[3]  # of a string of four characters, the characters
    if scale == (1.0, 1.0):
        return x0, y0, x1, y1
    return x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1]


def _area(box: Sequence[Any]) -> Any:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def _far(a: Sequence[Any], b: Sequence[Any]) -> float:
    return math.sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2)


# VisionReasoner: a list of objects, {"bbox_2d": ..., "point_2d": ...}


def objects_format(case: Case) -> float:
    """0 to 2: the objects' mean of [bbox_2d is a list of 4] + [point_2d is a list of 2]. Source: VisionReasoner.

    Objects before the first item without keys keep their value.
    """
    total = 0.0
    with suppress(Exception):
        items = answer_json(case.response)
        for item in items:
            total += (_holds_list(item, "bbox_2d", 4) + _holds_list(item, "point_2d", 2)) / len(items)
    return total


def _holds_list(item: Any, key: str, count: int) -> bool:
    return key in item and isinstance(item[key], list) and len(item[key]) == count


def objects_accuracy(case: Case) -> float:
    """0 to 3: the best assignment's sum of [IoU > 1/2] + [L1 < 10] + [point < 30, in its box], over the larger count.

    IoU counts a width as x1 - x0 + 1. Arithmetic is numpy's own on whatever numbers the answer holds, as
    published: integers that don't fit in 64 bits wrap around. Source: VisionReasoner.
    """
    if not case.truth:
        return 0.0
    if not all(i.points for i in case.truth):
        raise UserError("a true object has no point; the preset 'vision_reasoner' needs one")
    true_boxes = np.array([i.box for i in case.truth[:MAX_OBJECTS]])  # [T, 4]
    true_points = np.array([i.points[0] for i in case.truth[:MAX_OBJECTS]])  # [T, 2]
    with suppress(Exception), np.errstate(all="ignore"):
        items = answer_json(case.response)
        values = [item["bbox_2d"] for item in items], [item["point_2d"] for item in items]
        boxes, points = (np.array(value[:MAX_OBJECTS]) for value in values)  # [P, 4], [P, 2]
        if boxes.shape[1:] != (4,) or points.shape[1:] != (2,):
            return 0.0
        if case.scale != (1.0, 1.0):
            boxes, points = boxes * (case.scale * 2), points * case.scale
        worth = threshold_worth(boxes[:, None], points[:, None], true_boxes, true_points)  # [P, T]
        return float(worth[assign(worth)].sum() / max(worth.shape))
    return 0.0


def threshold_worth(boxes: Array, points: Array, true_boxes: Array, true_points: Array) -> NDArray[np.float64]:
    """Values 0 to 3 of every pair [P, T], from boxes [P, 1, 4] and points [P, 1, 2]."""
    low, high = boxes[..., :2], boxes[..., 2:]
    true_low, true_high = true_boxes[:, :2], true_boxes[:, 2:]
    shared = _product(np.maximum(0, np.minimum(high, true_high) - np.maximum(low, true_low) + 1))
    iou = shared / (_product(high - low + 1) + _product(true_high - true_low + 1) - shared)
    near = np.abs(boxes - true_boxes).mean(axis=2)
    far = np.sqrt(((points - true_points) ** 2).sum(axis=2))
    inside = ((points >= low) & (points <= high)).all(axis=2)
    return np.asarray((iou > 0.5).astype(float) + (near < 10) + ((far < 30) & inside))


def _product(sides: Array) -> Array:
    return np.asarray(sides[..., 0] * sides[..., 1])


def answer_json(text: str) -> Any:
    """Parse the text in the first <answer> as JSON."""
    start = text.index("<answer>") + len("<answer>")
    return json.loads(text[start : text.index("</answer>", start)].strip())

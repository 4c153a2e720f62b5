"""Description of a case for the sandbox's worker: plain values, as JSON can hold them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rewards.case import SIDE, Case
from segzero.masks import RLE, Box, box_of_rle, decode, iou_matrix, mask_iou, pixel_count, subtract

MAX_THINK = 20_000  # characters of a think-chain


def payload_of(case: Case, masks: bool) -> dict[str, Any]:
    """Describe a case. `masks`: compare masks, too; otherwise they are left out, drawn or not.

    Training draws none for a reward that needs none, but validation does: a reward must be the same in both. An answer
    that is not well formed has no instances: what cannot be read earns nothing by its parts.
    """
    answer = case.answer
    readable = case.well_formed and answer.error is None
    drawn, true = (case.drawn_masks, case.true_masks) if masks else (None, None)
    found = _instances(case, drawn) if readable else []
    by_object = drawn if drawn is not None and len(drawn) == len(found) else None
    ious = _mask_ious(case, by_object, true) if by_object and true else None
    return {
        "readable": readable,
        "error": answer.error if readable or answer.error else "not_json",
        "warnings": list(answer.warnings),
        "think": answer.think[:MAX_THINK],
        "words": len(answer.think.split()),
        "instances": [
            _row(box, points, by_object[i] if by_object else None, ious[i] if ious else [])
            for i, (box, points) in enumerate(found)
        ],
        "truth": [_row(one.box, one.points, true[i] if true else None, []) for i, one in enumerate(case.truth)],
        "mask_iou": _union_iou(case, readable, [box for box, _ in found if box]) if masks else 0.0,
    }


def _instances(case: Case, drawn: Sequence[RLE] | None) -> list[tuple[Box | None, Sequence[tuple[float, float]]]]:
    """Boxes and points of an answer; of phrases, those of the masks that they became."""
    phrases = case.answer.phrases
    if not phrases:
        return [(one.box, one.points) for one in case.answer.instances]
    if drawn is None:
        return [(phrase.box, ()) for phrase in phrases]
    return [(_in_square(rle), ()) for rle in drawn]


def _in_square(rle: RLE) -> Box | None:
    box, (height, width) = box_of_rle(rle), rle["size"]
    if box is None:
        return None
    return box[0] * SIDE / width, box[1] * SIDE / height, box[2] * SIDE / width, box[3] * SIDE / height


def _row(
    box: Box | None, points: Sequence[tuple[float, float]], mask: RLE | None, mask_ious: list[float]
) -> dict[str, Any]:
    return {
        "box": list(box) if box else None,
        "points": [list(point) for point in points],
        "area": pixel_count(mask) / (mask["size"][0] * mask["size"][1]) if mask else _box_share(box),
        "mask_ious": mask_ious,
    }


def _box_share(box: Box | None) -> float:
    if box is None:
        return 0.0
    x0, y0, x1, y1 = (min(max(value, 0.0), SIDE) for value in box)
    return max(0.0, x1 - x0) * max(0.0, y1 - y0) / SIDE**2


def _mask_ious(case: Case, drawn: Sequence[RLE], true: Sequence[RLE]) -> list[list[float]]:
    """IoU of every drawn mask with every true one, without ignored pixels, [P][T]."""
    if case.ignore is not None:
        drawn, true = ([subtract(rle, case.ignore) for rle in rles] for rles in (drawn, true))
    rows: list[list[float]] = iou_matrix(drawn, true).tolist()
    return rows


def _union_iou(case: Case, readable: bool, boxes: list[Box]) -> float:
    """IoU of all that was drawn with all that is true; of the boxes, where there are no masks."""
    if not readable:
        return 0.0
    empty = not case.answer.count
    if empty or not case.truth:
        return float(empty and not case.truth)
    if case.predicted_mask is None or case.true_mask is None:
        return _box_union_iou(boxes, [one.box for one in case.truth])
    ignore = decode(case.ignore) if case.ignore else None
    return mask_iou(decode(case.predicted_mask), decode(case.true_mask), ignore)


def _box_union_iou(predicted: Sequence[Box], true: Sequence[Box]) -> float:
    """IoU of two unions of boxes, exact: on the grid of all their edges.

    >>> _box_union_iou([(0, 0, 10, 10), (0, 0, 10, 5)], [(0, 0, 10, 20)])
    0.5
    """
    edges = np.array([*predicted, *true], dtype=float).reshape(-1, 4)  # [N, 4]
    xs, ys = np.unique(edges[:, [0, 2]]), np.unique(edges[:, [1, 3]])
    cells = np.outer(np.diff(ys), np.diff(xs))  # [Y, X] area of each cell
    covered = []
    for boxes in (predicted, true):
        union = np.zeros(cells.shape, dtype=bool)
        for x0, y0, x1, y1 in boxes:
            union |= ((ys[:-1] >= y0) & (ys[1:] <= y1))[:, None] & ((xs[:-1] >= x0) & (xs[1:] <= x1))[None, :]
        covered.append(union)
    either = float(cells[covered[0] | covered[1]].sum())
    return float(cells[covered[0] & covered[1]].sum()) / either if either > 0 else 0.0

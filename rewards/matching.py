"""Which predicted box answers which true one: the assignment of largest total IoU."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from segzero.masks import box_iou

Box = Sequence[float]  # x0, y0, x1, y1


def match(predicted: Sequence[Box], true: Sequence[Box]) -> list[tuple[int, int, float]]:
    """Pairs (predicted index, true index, IoU) of the best one-to-one assignment.

    >>> match([(0, 0, 4, 4), (8, 8, 9, 9)], [(8, 8, 9, 9)])
    [(1, 0, 1.0)]
    """
    if not len(predicted) or not len(true):
        return []
    iou = box_iou(np.asarray(predicted, dtype=float), np.asarray(true, dtype=float))  # [P, T]
    rows, columns = linear_sum_assignment(iou, maximize=True)
    return [(int(p), int(t), float(iou[p, t])) for p, t in zip(rows, columns, strict=True)]


def matched_iou(predicted: Sequence[Box], true: Sequence[Box]) -> float:
    """Mean IoU of the matched boxes over the larger count, from 0 to 1; nothing said of nothing there is 1.

    Missing boxes and boxes too many both lower it.

    >>> matched_iou([], []), matched_iou([(0, 0, 2, 2)], [])
    (1.0, 0.0)
    """
    if not len(predicted) and not len(true):
        return 1.0
    return sum(iou for _, _, iou in match(predicted, true)) / max(len(predicted), len(true))

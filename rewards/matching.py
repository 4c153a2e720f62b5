"""One-to-one matching of predicted objects with true ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segzero.answer import Instance
from segzero.masks import box_iou

Box = Sequence[float]  # x0, y0, x1, y1
Indices = NDArray[np.intp]

BOX_REACH = 10.0  # pixels of the 840 frame, where closeness is one half: the published thresholds
POINT_REACH = 30.0


@dataclass(frozen=True)
class Pair:
    """A predicted object matched with a true one; distances in pixels of the 840 frame."""

    predicted: int
    true: int
    iou: float
    box_distance: float  # mean of the four absolute differences
    point_distance: float  # mean over the predicted points, each to the nearest true one; inf without points
    inside: bool  # the predicted points lie in the predicted box


def closeness(distance: ArrayLike, reach: float) -> NDArray[np.float64]:
    """Turn distances into values from 1 at distance 0 through 1/2 at `reach` towards 0 far away.

    >>> closeness([0, 10, 90], reach=10).tolist()
    [1.0, 0.5, 0.1]
    """
    return np.asarray(1 / (1 + np.asarray(distance, dtype=float) / reach))


def assign(worth: NDArray[np.float64]) -> tuple[Indices, Indices]:
    """Rows and columns of the one-to-one assignment with the largest sum of `worth` [P, T]."""
    from scipy.optimize import linear_sum_assignment  # takes a third of a second to import

    rows, columns = linear_sum_assignment(worth, maximize=True)
    return rows, columns


def match(predicted: Sequence[Box], true: Sequence[Box]) -> list[tuple[int, int, float]]:
    """Pairs (predicted index, true index, IoU) of the assignment of largest total IoU.

    >>> match([(0, 0, 4, 4), (8, 8, 9, 9)], [(8, 8, 9, 9)])
    [(1, 0, 1.0)]
    """
    if not len(predicted) or not len(true):
        return []
    iou = box_iou(np.asarray(predicted, dtype=float), np.asarray(true, dtype=float))  # [P, T]
    rows, columns = assign(iou)
    return [(int(p), int(t), float(iou[p, t])) for p, t in zip(rows, columns, strict=True)]


def matched_iou(predicted: Sequence[Box], true: Sequence[Box]) -> float:
    """Mean IoU of the matched boxes over the larger count, from 0 to 1; 1 if there are no boxes on either side.

    Missing boxes and superfluous ones both lower it.

    >>> matched_iou([], []), matched_iou([(0, 0, 2, 2)], [])
    (1.0, 0.0)
    """
    if not len(predicted) and not len(true):
        return 1.0
    return sum(iou for _, _, iou in match(predicted, true)) / max(len(predicted), len(true))


def pair_up(predicted: Sequence[Instance], true: Sequence[Instance]) -> list[Pair]:
    """Pair objects so that boxes and points agree best in total; all terms then compare the same pairs."""
    if not predicted or not true:
        return []
    boxes = np.array([i.box for i in predicted], dtype=float)  # [P, 4]
    true_boxes = np.array([i.box for i in true], dtype=float)  # [T, 4]
    iou = box_iou(boxes, true_boxes)  # [P, T]
    box_distance = np.abs(boxes[:, None] - true_boxes).mean(axis=2)  # [P, T]
    points, true_points = _points(predicted), _points(true)  # [P, K, 2], [T, L, 2]
    apart = np.linalg.norm(points[:, :, None, None] - true_points, axis=-1)  # [P, K, T, L]
    point_distance = np.where(np.isnan(apart), np.inf, apart).min(axis=3).mean(axis=1)  # [P, T]
    in_box = (points >= boxes[:, None, :2]) & (points <= boxes[:, None, 2:])  # [P, K, 2]
    inside = np.all(in_box.reshape(len(boxes), -1), axis=1).tolist()  # [P]

    near_points = closeness(point_distance, POINT_REACH) * np.reshape(inside, (-1, 1))
    rows, columns = assign(iou + closeness(box_distance, BOX_REACH) + near_points)
    return [
        Pair(p, t, float(iou[p, t]), float(box_distance[p, t]), float(point_distance[p, t]), inside[p])
        for p, t in zip(rows.tolist(), columns.tolist(), strict=True)
    ]


def _points(instances: Sequence[Instance]) -> NDArray[np.float64]:
    """Points as an array [N, K, 2] of xy, K the largest number of points of an instance; nan where there is none."""
    most = max(1, *(len(i.points) for i in instances))
    return np.array([[*i.points, *[(np.nan, np.nan)] * (most - len(i.points))] for i in instances], dtype=float)

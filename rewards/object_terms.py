"""Terms that compare the objects of an answer with the true ones, over one pairing of both.

An answer that isn't well formed (`Case.well_formed`) is worth 0 in every term. It is never taken for the answer
"nothing there", which is worth 1 if it is right and 0 if it is wrong. Among objects, the pairs' values are added and
divided by the larger count, so that an object missing or too many costs its share. A pair whose boxes don't
overlap is worth 0: a copy of another object's box must not earn by being near.
"""

from collections.abc import Callable

import numpy as np

from rewards.case import Case
from rewards.matching import BOX_REACH, POINT_REACH, Pair, closeness, matched_iou
from segzero.errors import UserError
from segzero.masks import box_iou, decode, mask_iou


def clean_answer(case: Case) -> float:
    """Share of a well-formed answer's objects that are valid, 0 to 1; 1 for "nothing there". Source: ours."""
    if not case.well_formed or case.answer.error is not None:
        return 0.0
    objects, faults = case.answer.count, len(case.answer.warnings)
    return objects / (objects + faults) if faults else 1.0


def presence(case: Case) -> float:
    """1 if the answer is right about whether anything is there, else 0. Source: GenSeg-R1-G."""
    return float(case.predicts_empty if not case.truth else case.well_formed and bool(case.answer.count))


def count_ratio(case: Case) -> float:
    """Smaller number of objects over the larger, 0 to 1. Source: ours.

    Predicted boxes that overlap each other by more than half count as one, unless true boxes do so too:
    copies must not fill up the count. Of phrases, the masks that were drawn for them count.
    """
    score = _empty_score(case)
    if score is not None:
        return score
    boxes = [i.box for i in case.answer.instances] if case.drawn_boxes is None else list(case.drawn_boxes)
    predicted, true = len(boxes), len(case.truth)
    copies = predicted - _distinct(boxes)
    if copies:
        copies = max(0, copies - (true - _distinct([i.box for i in case.truth])))
    return min(predicted - copies, true) / max(predicted, true)


def box_iou_hard(case: Case) -> float:
    """Share of objects whose boxes have an IoU above 1/2. Source: VisionReasoner, areas without its +1."""
    return _over_pairs(case, lambda pair: float(pair.iou > 0.5))


def box_iou_mean(case: Case) -> float:
    """Mean IoU of the paired boxes, 0 to 1. Source: Dr.Seg."""
    return _over_pairs(case, lambda pair: pair.iou)


def box_iou_squared(case: Case) -> float:
    """Mean squared IoU of the paired boxes, 0 to 1: the last pixels are worth most. Source: LENS."""
    return _over_pairs(case, lambda pair: pair.iou**2)


def box_near(case: Case) -> float:
    """Share of objects whose box edges are off by less than 10 pixels in the mean. Source: VisionReasoner."""
    return _over_pairs(case, lambda pair: float(pair.box_distance < BOX_REACH))


def box_closeness(case: Case) -> float:
    """Closeness of the box edges, 0 to 1: one half where they are off by 10 pixels in the mean. Source: ours."""
    return _over_pairs(case, lambda pair: float(closeness(pair.box_distance, BOX_REACH)))


def points_near(case: Case) -> float:
    """Share of objects whose points lie in their box, under 30 pixels from a true point. Source: VisionReasoner."""
    _need_points(case)
    return _over_pairs(case, lambda pair: float(pair.inside and pair.point_distance < POINT_REACH))


def points_closeness(case: Case) -> float:
    """Closeness of the points, 0 to 1: one half at 30 pixels, 0 for points outside their box. Source: ours."""
    _need_points(case)
    return _over_pairs(case, lambda pair: pair.inside * float(closeness(pair.point_distance, POINT_REACH)))


def predicted_mask_iou(case: Case) -> float:
    """IoU of the union of the segmenter's masks with the union of the true ones, 0 to 1. Source: GenSeg-R1-G.

    Without a segmenter the boxes stand for the masks (`matched_iou`), so that a dataset can be checked.
    """
    score = _empty_score(case)
    if score is not None:
        return score
    if case.predicted_mask is None or case.true_mask is None:
        return matched_iou([i.box for i in case.answer.instances], [i.box for i in case.truth])
    ignore = decode(case.ignore) if case.ignore else None
    return mask_iou(decode(case.predicted_mask), decode(case.true_mask), ignore)


def self_contained(case: Case) -> float:
    """`predicted_mask_iou` of the answer to the think-chain alone, which is asked in place of the question, 0 to 1.

    A think-chain that names its object is enough to find it. Source: DR2Seg. Without such an answer the response's own
    stands for it, so that a dataset can be checked.
    """
    return predicted_mask_iou(case if case.retold is None else case.retold)


def _empty_score(case: Case) -> float | None:
    """1 or 0 where the truth or the answer has no objects; None where both have objects to compare."""
    if case.truth and case.well_formed and case.answer.count:
        return None
    return float(not case.truth and case.predicts_empty)


def _over_pairs(case: Case, value: Callable[[Pair], float]) -> float:
    """Sum of the pairs' values over the larger count of objects."""
    score = _empty_score(case)
    if score is not None:
        return score
    total = sum(value(pair) for pair in case.pairs if pair.iou > 0)
    return total / max(len(case.answer.instances), len(case.truth))


def _need_points(case: Case) -> None:
    if not all(i.points for i in case.truth):
        raise UserError("a true object has no point; prepare the data with points, or use the preset 'mask'")


def _distinct(boxes: list[tuple[float, float, float, float]]) -> int:
    """Count the groups of boxes that an IoU above 1/2 links, directly or through others."""
    linked = (box_iou(boxes, boxes) > 0.5) | np.eye(len(boxes), dtype=bool)  # [N, N]
    links = 0
    while np.count_nonzero(linked) > max(links, len(boxes)):
        links = int(np.count_nonzero(linked))
        linked = linked.astype(np.float32) @ linked.astype(np.float32) > 0  # the boxes linked to linked ones, and so on
    return len({row.tobytes() for row in linked})  # all rows of a group are equal

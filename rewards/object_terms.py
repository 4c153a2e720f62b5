"""Terms that compare the objects a response names with the true ones, over one pairing of both.

An answer that isn't well formed (`Case.well_formed`) is worth 0 throughout, and is never taken for "nothing
there", which is worth 1 said rightly and 0 said wrongly. Among objects, the worth of the pairs is summed and
divided by the larger count, so that an object missing or too many costs its share. A pair whose boxes don't
overlap is worth 0: a copy put in another's place must not earn by being near.
"""

from collections.abc import Callable

import numpy as np

from rewards.case import Case
from rewards.matching import BOX_REACH, POINT_REACH, Pair, closeness, matched_iou
from segzero.errors import UserError
from segzero.masks import box_iou, decode, mask_iou


def clean_answer(case: Case) -> float:
    """The share of a well-formed answer's objects that are sound, 0 to 1; 1 for "nothing there". Source: ours."""
    if not case.well_formed or case.answer.error is not None:
        return 0.0
    objects, faults = len(case.answer.instances), len(case.answer.warnings)
    return objects / (objects + faults) if faults else 1.0


def presence(case: Case) -> float:
    """1 if the response rightly says that something or that nothing is there, else 0. Source: GenSeg-R1-G."""
    return float(case.predicts_empty if not case.truth else case.well_formed and bool(case.answer.instances))


def count_ratio(case: Case) -> float:
    """The smaller number of objects over the larger, 0 to 1. Source: ours.

    Predicted boxes that overlap each other by more than half count as one, unless true boxes do so too:
    copies must not fill up the count.
    """
    said = _of_nothing(case)
    if said is not None:
        return said
    predicted, true = len(case.answer.instances), len(case.truth)
    copies = predicted - _distinct([i.box for i in case.answer.instances])
    if copies:
        copies = max(0, copies - (true - _distinct([i.box for i in case.truth])))
    return min(predicted - copies, true) / max(predicted, true)


def box_iou_hard(case: Case) -> float:
    """The share of objects whose boxes have an IoU above 1/2. Source: VisionReasoner, areas without its +1."""
    return _over_pairs(case, lambda pair: float(pair.iou > 0.5))


def box_iou_mean(case: Case) -> float:
    """The mean IoU of the paired boxes, 0 to 1. Source: Dr.Seg."""
    return _over_pairs(case, lambda pair: pair.iou)


def box_iou_squared(case: Case) -> float:
    """The mean squared IoU, 0 to 1: the last pixels are worth most. Source: LENS."""
    return _over_pairs(case, lambda pair: pair.iou**2)


def box_near(case: Case) -> float:
    """The share of objects whose box edges are off by less than 10 pixels in the mean. Source: VisionReasoner."""
    return _over_pairs(case, lambda pair: float(pair.box_distance < BOX_REACH))


def box_closeness(case: Case) -> float:
    """How close the box edges are, 0 to 1: one half where they are off by 10 pixels in the mean. Source: ours."""
    return _over_pairs(case, lambda pair: float(closeness(pair.box_distance, BOX_REACH)))


def points_near(case: Case) -> float:
    """The share of objects whose points lie in their box, under 30 pixels from a true point. Source: VisionReasoner."""
    _need_points(case)
    return _over_pairs(case, lambda pair: float(pair.inside and pair.point_distance < POINT_REACH))


def points_closeness(case: Case) -> float:
    """How close the points are, 0 to 1: one half at 30 pixels, 0 for points outside their box. Source: ours."""
    _need_points(case)
    return _over_pairs(case, lambda pair: pair.inside * float(closeness(pair.point_distance, POINT_REACH)))


def drawn_mask_iou(case: Case) -> float:
    """IoU of all that the segmenter drew with all that is true, 0 to 1. Source: GenSeg-R1-G.

    Without a segmenter's masks the boxes stand for them (`matched_iou`), so that a dataset can be checked.
    """
    said = _of_nothing(case)
    if said is not None:
        return said
    if case.drawn is None or case.true_mask is None:
        return matched_iou([i.box for i in case.answer.instances], [i.box for i in case.truth])
    ignore = decode(case.ignore) if case.ignore else None
    return mask_iou(decode(case.drawn), decode(case.true_mask), ignore)


def _of_nothing(case: Case) -> float | None:
    """1 or 0 where the truth or the answer has no objects, None where both have some to compare."""
    if case.truth and case.well_formed and case.answer.instances:
        return None
    return float(not case.truth and case.predicts_empty)


def _over_pairs(case: Case, worth: Callable[[Pair], float]) -> float:
    said = _of_nothing(case)
    if said is not None:
        return said
    total = sum(worth(pair) for pair in case.pairs if pair.iou > 0)
    return total / max(len(case.answer.instances), len(case.truth))


def _need_points(case: Case) -> None:
    if not all(i.points for i in case.truth):
        raise UserError("a true object has no point; prepare the data with points, or use the preset 'mask'")


def _distinct(boxes: list) -> int:
    """How many groups of boxes there are, linked by an IoU above 1/2."""
    linked = (box_iou(boxes, boxes) > 0.5) | np.eye(len(boxes), dtype=bool)  # [N, N]
    links = 0
    while np.count_nonzero(linked) > max(links, len(boxes)):
        links = int(np.count_nonzero(linked))
        linked = linked.astype(np.float32) @ linked.astype(np.float32) > 0  # a link's links, and so on
    return len({row.tobytes() for row in linked})  # all rows of a group are equal

"""Terms of rewards that Seg-Zero's successors publish: StAR, Dr.Seg, LENS and SWiM.

Their code cannot teach "nothing there": an empty truth or an empty answer earns no accuracy in it. Here it is worth the
most where it is right, and nothing where it is wrong. Answers about objects that are there earn what is published.
"""

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewards.case import Case
from rewards.matching import assign
from rewards.object_terms import clean_answer, predicted_mask_iou
from rewards.published import MAX_OBJECTS, answer_json, objects_format, threshold_worth
from rewards.text_terms import thinking_format
from segzero.errors import UserError
from segzero.masks import box_iou, iou_matrix, subtract

MOST_GRADED = 7.0  # of a pair: its mask 4, its box 2, its point 1
_SAME = 1e-6  # weight of what decides between pairings that the thresholds find equal


def whole_format(case: Case) -> float:
    """1 if the response is a think-chain and an answer without a fault, else 0. Source: SWiM, LENS."""
    return float(thinking_format(case) == 1.0 and clean_answer(case) == 1.0)


def objects_or_nothing_format(case: Case) -> float:
    """0 to 2: VisionReasoner's format, and 2 for "nothing there". Source: StAR, Dr.Seg; for nothing, ours."""
    return 2.0 if case.predicts_empty else objects_format(case)


def mask_iou_squared(case: Case) -> float:
    """Squared IoU of the masks, 0 to 1: the last pixels are worth most. Source: LENS."""
    return predicted_mask_iou(case) ** 2


def graded_objects(case: Case) -> float:
    """0 to 7: the best pairing's sum of grades over the larger count of objects. Source: StAR.

    A pair's mask IoU above 0.5, 0.7, 0.8 earns 2, 3, 4; a box IoU above 0.5, edges less than 10 pixels off, and a point
    in its box less than 30 pixels off earn 1 each. Without a segmenter boxes stand for the masks. An object that could
    not be read counts.
    """
    if not case.truth:
        return MOST_GRADED * case.predicts_empty
    instances = case.answer.instances
    if not case.well_formed or not instances:
        return 0.0
    true_boxes, true_points = _true_arrays(case)  # [T, 4], [T, 2]
    boxes = np.array([i.box for i in instances], dtype=float)  # [P, 4]
    points = np.array([i.points[0] if i.points else (np.nan, np.nan) for i in instances], dtype=float)  # [P, 2]
    mask_iou = _mask_ious(case) if case.drawn_masks is not None else box_iou(boxes, true_boxes, plus_one=True)
    grades = 2.0 * (mask_iou > 0.5) + (mask_iou > 0.7) + (mask_iou > 0.8)  # [P, T]
    with np.errstate(invalid="ignore"):  # an object without a point
        worth = grades + threshold_worth(boxes[:, None], points[:, None], true_boxes, true_points)
    return float(worth[assign(worth)].sum() / max(len(instances) + len(case.answer.warnings), len(case.truth)))


def matched_box_iou(case: Case) -> float:
    """Mean IoU of the matched boxes, 0 to 1, whatever the counts. Source: Dr.Seg."""
    return _matched(case)[0]


def plain_count_ratio(case: Case) -> float:
    """Smaller number of objects over the larger, 0 to 1, copies included. Source: Dr.Seg."""
    return _matched(case)[1]


def matched_points(case: Case) -> float:
    """Mean over the matched points, 0 to 1: 1 up to 30 pixels off, then linearly to 0 at 200. Source: Dr.Seg."""
    return _matched(case)[2]


def _matched(case: Case) -> tuple[float, float, float]:
    """IoU, count and points of Dr.Seg, over the matching that VisionReasoner's thresholds make.

    Among pairings that these find equal, as published whichever comes first, the closest is taken: the order of the
    objects must not matter. What cannot be read as boxes and points has no objects.
    """
    if not case.truth:
        return (1.0, 1.0, 1.0) if case.predicts_empty else (0.0, 0.0, 0.0)
    true_boxes, true_points = _true_arrays(case)  # [T, 4], [T, 2]
    written = _written_objects(case)
    if written is None:
        return 0.0, 0.0, 0.0
    boxes, points = written  # [P, 4], [P, 2]
    count = min(len(boxes), len(true_boxes)) / max(len(boxes), len(true_boxes))
    with np.errstate(all="ignore"):
        iou = np.clip(np.nan_to_num(box_iou(boxes, true_boxes, plus_one=True), posinf=0.0), 0.0, 1.0)  # [P, T]
        far = np.linalg.norm(points[:, None] - true_points, axis=2)  # [P, T]
        near = np.clip(np.nan_to_num((200.0 - far) / 170.0), 0.0, 1.0)
        worth = threshold_worth(boxes[:, None], points[:, None], true_boxes, true_points)
        pairs = assign(worth + _SAME * (iou + near))
    return float(iou[pairs].mean()), count, float(near[pairs].mean())


def _written_objects(case: Case) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Boxes [P, 4] and points [P, 2] in the 840 frame as the JSON holds them; None if it holds none."""
    with suppress(Exception):  # as published, whatever is wrong with the JSON
        items: list[Any] = answer_json(case.response)[:MAX_OBJECTS]
        boxes = np.array([item["bbox_2d"] for item in items], dtype=float) * (case.scale * 2)
        points = np.array([item["point_2d"] for item in items], dtype=float) * case.scale
        if boxes.shape[1:] == (4,) and points.shape[1:] == (2,):
            return boxes, points
    return None


def _true_arrays(case: Case) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes [T, 4] and first points [T, 2] of the true objects."""
    if not all(i.points for i in case.truth):
        raise UserError("a true object has no point; prepare the data with points, or use the preset 'mask'")
    truth = case.truth[:MAX_OBJECTS]
    return np.array([i.box for i in truth], dtype=float), np.array([i.points[0] for i in truth], dtype=float)


def _mask_ious(case: Case) -> NDArray[np.float64]:
    """IoU of each object's drawn mask with each true one [P, T], ignored pixels left out."""
    drawn, true = list(case.drawn_masks or ()), list(case.true_masks or ())[:MAX_OBJECTS]
    if len(drawn) != len(case.answer.instances):
        raise UserError(f"{len(drawn)} masks for {len(case.answer.instances)} objects; this reward needs one for each")
    if case.ignore is not None:
        drawn, true = ([subtract(rle, case.ignore) for rle in rles] for rles in (drawn, true))
    return iou_matrix(drawn, true)

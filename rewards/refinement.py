"""Terms for a policy that judges and corrects masks, after SAM-Veteran: the right decision, and the IoU that it gains.

An answer to a question without a mask is the correction of nothing: its decision is whether anything is there, and its
gain the whole IoU. So both kinds of samples can be in one run, and are worth the same.
"""

import numpy as np

from rewards.case import Case
from rewards.object_terms import predicted_mask_iou, presence
from segzero.answer import Answer
from segzero.masks import RLE, Mask, decode, mask_iou

BORDER = 0.01  # width of the band along the true border that is not looked at, in diagonals of the image
GOOD = 0.95  # least IoU beside that band of a mask that is good enough
LEAST = 0.7  # least IoU with it: the band of a small object is most of it


def good_enough(mask: Mask, true: Mask, ignore: Mask | None = None) -> bool:
    """True if a mask [H, W] differs from the true one along its border alone."""
    if mask_iou(mask, true, ignore) < LEAST:
        return False
    from scipy.ndimage import binary_dilation, binary_erosion  # a third of a second, for those who judge masks

    width = max(1, round(BORDER * float(np.hypot(*true.shape))))
    band = binary_dilation(true, iterations=width) & ~binary_erosion(true, iterations=width, border_value=1)
    return mask_iou(mask, true, band if ignore is None else band | ignore) >= GOOD


def keeps(answer: Answer, drawn: RLE | None, current: RLE) -> bool:
    """True if an answer about the current mask keeps it, in words or because what it draws is that mask again.

    `drawn` is the union of the segmenter's masks for the answer; None: there is no segmenter.
    """
    drawn_again = answer.corrects and drawn is not None and good_enough(decode(drawn), decode(current))
    return answer.keeps or drawn_again


def decision(case: Case) -> float:
    """1 if a good mask is kept, a bad one corrected, and nothing said to be there where that is so; else 0.

    Without a mask to judge: 1 if the answer is right about whether anything is there. Source: SAM-Veteran.
    """
    if case.current_mask is None:
        return presence(case)
    if not case.well_formed or case.answer.error is not None:
        return 0.0
    says_nothing = not case.answer.count
    kept = keeps(case.answer, case.predicted_mask, case.current_mask)
    if _is_good(case):
        return float(kept or (says_nothing and not case.truth))
    return float(not (says_nothing or kept) if case.truth else says_nothing)


def gain(case: Case) -> float:
    """Share of the IoU missing in the mask that its correction wins, 0 to 1; 1 for a good mask that is kept.

    Without a mask to judge: the IoU of the answer's masks. Graded as in SAM-Veteran: how much is won decides. Without a
    segmenter the right decision stands for it, so that a data set can be checked.
    """
    if case.current_mask is None:
        return predicted_mask_iou(case)
    if not decision(case):
        return 0.0
    if not case.truth or _is_good(case):
        return 1.0
    if case.predicted_mask is None or case.true_mask is None:
        return 1.0
    ignore = decode(case.ignore) if case.ignore else None
    before, after = (
        mask_iou(decode(mask), decode(case.true_mask), ignore) for mask in (case.current_mask, case.predicted_mask)
    )
    return max(after - before, 0.0) / (1 - before) if before < 1 else 0.0


def _is_good(case: Case) -> bool:
    if case.current_mask is None or case.true_mask is None:
        return False
    return good_enough(decode(case.current_mask), decode(case.true_mask), decode(case.ignore) if case.ignore else None)

"""Mask metrics over a benchmark. Every sample has one `Score`, failures included, so that no denominator loses any.

The worked example of the docstrings, four samples:

| sample | truth | prediction | intersection | union | IoU |
|---|---|---|---|---|---|
| a | 4 pixels | 6 pixels, 3 of them right | 3 | 7 | 3/7 |
| b | 5 pixels | the answer could not be read | 0 | 5 | 0 |
| c | nothing there | nothing | 0 | 0 | 1 |
| d | nothing there | 2 pixels | 0 | 2 | 0 |

>>> a, b = Score(3, 7), Score(0, 5, failed=True)
>>> c, d = Score(0, 0, pred_empty=True, true_empty=True), Score(0, 2, true_empty=True)
>>> scores = [a, b, c, d]
>>> round(giou(scores), 3), round(ciou(scores), 3)
(0.357, 0.214)
>>> precision_at(scores, 0.5), n_acc(scores), t_acc(scores)
(0.25, 0.5, 0.5)

Each figure is a ratio of two sums over the samples; a `Part` is what one sample adds to the numerator and the
denominator.
A figure over no samples at all (N-acc where every sample has a target) is nan.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from numpy.typing import ArrayLike

from segzero.errors import UserError
from segzero.masks import RLE, intersection_area, pixel_count, to_rle

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)  # of P@k, and of their mean
Part = tuple[float, float]  # added to the numerator, and to the denominator


@dataclass(frozen=True, slots=True)
class Score:
    """Pixel counts of one sample, from which all mask metrics are computed."""

    intersection: int
    union: int  # of a failure: the truth's area
    pred_empty: bool = False  # the answer was: nothing there; never true of a failure
    true_empty: bool = False
    failed: bool = False  # no answer, or none that could be read

    @property
    def iou(self) -> float:
        """Intersection over union; a correct "nothing there" is 1, a failure 0."""
        return self.intersection / self.union if self.union else float(self.pred_empty)


def score_masks(
    pred: ArrayLike | RLE | None,
    truth: ArrayLike | RLE | None,
    ignore: ArrayLike | RLE | None = None,
    failed: bool = False,
) -> Score:
    """Compare a predicted mask with the true one. None predicts nothing; with `failed` the prediction does not count.

    Pixels in `ignore` count neither for nor against: they are left out of both masks.

    >>> score_masks([[1, 1, 0]], [[0, 1, 1]])
    Score(intersection=1, union=3, pred_empty=False, true_empty=False, failed=False)
    >>> score_masks([[1, 1, 0]], [[0, 1, 1]], ignore=[[1, 0, 0]]).iou
    0.5
    """
    if truth is None:
        raise UserError("a sample can't be scored: its truth has no mask; give every object an RLE")
    return score_rles(
        None if pred is None or failed else to_rle(pred),
        to_rle(truth),
        None if ignore is None else to_rle(ignore),
        failed,
    )


def score_rles(pred: RLE | None, true: RLE, ignore: RLE | None = None, failed: bool = False) -> Score:
    """Compare checked RLEs, as `score_masks` does."""
    predicted = None if failed else pred
    for name, other in (("predicted", predicted), ("ignored", ignore)):
        if other is not None and other["size"] != true["size"]:
            raise UserError(f"masks of different sizes can't be scored: {name} {other['size']}, true {true['size']}")

    def counted(*masks: RLE) -> int:
        """Number of pixels inside all masks, without the ignored ones."""
        inside = intersection_area(*masks) if len(masks) > 1 else pixel_count(masks[0])
        return inside - intersection_area(*masks, ignore) if ignore and inside else inside

    in_true, in_predicted = counted(true), counted(predicted) if predicted else 0
    both = counted(true, predicted) if predicted and in_true and in_predicted else 0
    return Score(
        intersection=both,
        union=in_true + in_predicted - both,
        pred_empty=not failed and not in_predicted,
        true_empty=not in_true,
        failed=failed,
    )


def giou_part(score: Score) -> Part:
    return score.iou, 1


def ciou_part(score: Score) -> Part:
    return score.intersection, score.union


def precision_part(score: Score, threshold: float) -> Part:
    return score.iou >= threshold, 1


def mean_precision_part(score: Score) -> Part:
    return sum(score.iou >= threshold for threshold in THRESHOLDS) / len(THRESHOLDS), 1


def n_acc_part(score: Score) -> Part:
    return score.true_empty and score.pred_empty, score.true_empty


def t_acc_part(score: Score) -> Part:
    return not (score.true_empty or score.pred_empty or score.failed), not score.true_empty


def giou(scores: Iterable[Score]) -> float:
    """gIoU: mean of the samples' IoU.

    Example: (3/7 + 0 + 1 + 0) / 4 = 0.357
    """
    return _ratio(map(giou_part, scores))


def ciou(scores: Iterable[Score]) -> float:
    """cIoU: all intersections over all unions, so that large objects weigh more.

    Example: (3 + 0 + 0 + 0) / (7 + 5 + 0 + 2) = 0.214
    """
    return _ratio(map(ciou_part, scores))


def precision_at(scores: Iterable[Score], threshold: float = 0.5) -> float:
    """P@k: the share of samples whose IoU reaches the threshold.

    Example: c of the four for 0.5, and a too for 0.4
    """
    return _ratio(precision_part(score, threshold) for score in scores)


def mean_precision(scores: Iterable[Score]) -> float:
    """P@0.5:0.9, the mean of P@0.5, P@0.6, P@0.7, P@0.8 and P@0.9.

    Example: c alone reaches any of them = 0.25
    """
    return _ratio(map(mean_precision_part, scores))


def n_acc(scores: Iterable[Score]) -> float:
    """N-acc: among the samples without a target, the share answered "nothing there". A failure is not such an answer.

    Example: c of c and d = 0.5
    """
    return _ratio(map(n_acc_part, scores))


def t_acc(scores: Iterable[Score]) -> float:
    """T-acc: among the samples with a target, the share answered with a mask. A failure is not such an answer.

    Example: a of a and b = 0.5
    """
    return _ratio(map(t_acc_part, scores))


def _ratio(parts: Iterable[Part]) -> float:
    above = below = 0.0
    for top, bottom in parts:
        above += top
        below += bottom
    return above / below if below else math.nan

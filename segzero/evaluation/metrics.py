"""How good masks are over a whole benchmark. Every sample has one `Score`, failures too: none leaves a denominator.

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

A figure over no samples at all (N-acc where every sample has a target) is nan.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from segzero.errors import UserError
from segzero.masks import RLE, Mask, decode


@dataclass(frozen=True)
class Score:
    """What one sample adds to the metrics, counted in pixels."""

    intersection: int
    union: int  # of a failure: the truth's area
    pred_empty: bool = False  # the answer was: nothing there; never true of a failure
    true_empty: bool = False
    failed: bool = False  # no answer, or none that could be read

    @property
    def iou(self) -> float:
        """Intersection over union; a correct "nothing there" is 1, a failure 0."""
        if self.failed:
            return 0.0
        return self.intersection / self.union if self.union else 1.0


def score_masks(
    pred: ArrayLike | RLE | None,
    truth: ArrayLike | RLE | None,
    ignore: ArrayLike | RLE | None = None,
    failed: bool = False,
) -> Score:
    """Compare a predicted mask with the true one; None predicts nothing, `failed` makes `pred` not count.

    Pixels in `ignore` count neither for nor against: they are left out of both masks.

    >>> score_masks([[1, 1, 0]], [[0, 1, 1]])
    Score(intersection=1, union=3, pred_empty=False, true_empty=False, failed=False)
    >>> score_masks([[1, 1, 0]], [[0, 1, 1]], ignore=[[1, 0, 0]]).iou
    0.5
    """
    if truth is None:
        raise UserError("a sample can't be scored: its truth has no mask; give every object an RLE")
    true = _to_mask(truth)
    counted = np.ones_like(true) if ignore is None else ~_to_mask(ignore)
    found = np.zeros_like(true) if pred is None or failed else _to_mask(pred)
    if not true.shape == found.shape == counted.shape:
        raise UserError(f"masks of different sizes can't be scored: predicted {found.shape}, true {true.shape}")
    true, found = true & counted, found & counted
    return Score(
        intersection=int((true & found).sum()),
        union=int((true | found).sum()),
        pred_empty=not failed and not found.any(),
        true_empty=not true.any(),
        failed=failed,
    )


def giou(scores: Iterable[Score]) -> float:
    """Mean of the samples' IoU.

    Example: (3/7 + 0 + 1 + 0) / 4 = 0.357
    """
    return _mean([s.iou for s in scores])


def ciou(scores: Iterable[Score]) -> float:
    """All intersections over all unions, so that large objects weigh more.

    Example: (3 + 0 + 0 + 0) / (7 + 5 + 0 + 2) = 0.214
    """
    scores = list(scores)
    union = sum(s.union for s in scores)
    return sum(s.intersection for s in scores) / union if union else math.nan


def precision_at(scores: Iterable[Score], threshold: float = 0.5) -> float:
    """P@k: the share of samples whose IoU reaches the threshold.

    Example: c of the four for 0.5, and a too for 0.4
    """
    return _mean([s.iou >= threshold for s in scores])


def n_acc(scores: Iterable[Score]) -> float:
    """Of the samples without a target, the share answered "nothing there". A failure is not such an answer.

    Example: c of c and d = 0.5
    """
    return _mean([s.pred_empty and not s.failed for s in scores if s.true_empty])


def t_acc(scores: Iterable[Score]) -> float:
    """Of the samples with a target, the share answered with a mask. A failure is not such an answer.

    Example: a of a and b = 0.5
    """
    return _mean([not s.pred_empty and not s.failed for s in scores if not s.true_empty])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _to_mask(mask: ArrayLike | RLE) -> Mask:
    return decode(mask) if isinstance(mask, dict) else np.asarray(mask, dtype=bool)

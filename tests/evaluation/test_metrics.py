"""Metrics worked out by hand: ten pixels in a row, failures and ignored pixels with them."""

import math

import numpy as np
import pytest

from segzero.errors import UserError
from segzero.evaluation.metrics import Score, ciou, giou, n_acc, precision_at, score_masks, t_acc
from segzero.masks import encode


def row(pixels: str) -> np.ndarray:
    """A mask of one row: # is inside."""
    return np.array([[c == "#" for c in pixels]])


TRUTH = "####......"
RIGHT = score_masks(row(TRUTH), row(TRUTH))  # 4 / 4
PARTLY = score_masks(row(".######..."), row(TRUTH))  # 3 / 7
MISSED = score_masks(None, row(TRUTH))  # 0 / 4, answered "nothing there"
FAILED = score_masks(row(TRUTH), row(TRUTH), failed=True)  # 0 / 4, whatever was drawn
NOTHING = score_masks(None, row(".........."))  # 0 / 0, rightly
INVENTED = score_masks(row("##........"), row(".........."))  # 0 / 2
FAILED_NOTHING = score_masks(None, row(".........."), failed=True)  # 0 / 0, and no answer
ALL = [RIGHT, PARTLY, MISSED, FAILED, NOTHING, INVENTED, FAILED_NOTHING]


def test_scores():
    assert [(s.intersection, s.union) for s in ALL] == [(4, 4), (3, 7), (0, 4), (0, 4), (0, 0), (0, 2), (0, 0)]
    assert [s.iou for s in ALL] == [1, 3 / 7, 0, 0, 1, 0, 0]
    assert [s.pred_empty for s in ALL] == [False, False, True, False, True, False, False]
    assert [s.true_empty for s in ALL] == [False, False, False, False, True, True, True]
    assert [s.failed for s in ALL] == [False, False, False, True, False, False, True]


def test_giou_is_the_mean_over_all_samples():
    assert giou(ALL) == pytest.approx((1 + 3 / 7 + 0 + 0 + 1 + 0 + 0) / 7)
    assert giou([RIGHT, FAILED]) == 0.5
    assert giou([NOTHING]) == 1


def test_ciou_sums_before_it_divides():
    assert ciou(ALL) == (4 + 3) / (4 + 7 + 4 + 4 + 0 + 2 + 0)
    assert ciou([RIGHT, FAILED]) == 4 / 8
    assert ciou([RIGHT, INVENTED]) == 4 / 6


def test_precision_counts_what_reaches_the_threshold():
    assert precision_at(ALL) == 2 / 7
    assert precision_at(ALL, 3 / 7) == 3 / 7
    assert precision_at(ALL, 0.95) == 2 / 7
    assert precision_at([FAILED], 0.0) == 1  # every IoU reaches nothing


def test_saying_nothing_there():
    assert n_acc(ALL) == 1 / 3  # NOTHING of NOTHING, INVENTED, FAILED_NOTHING
    assert t_acc(ALL) == 2 / 4  # RIGHT, PARTLY of RIGHT, PARTLY, MISSED, FAILED


def test_no_samples_no_figure():
    assert all(math.isnan(metric([])) for metric in (giou, ciou, precision_at, n_acc, t_acc))
    assert math.isnan(n_acc([RIGHT]))
    assert math.isnan(t_acc([NOTHING]))
    assert math.isnan(ciou([NOTHING]))


def test_ignored_pixels_are_in_neither_sum():
    ignore = row("##........")
    score = score_masks(row(".######..."), row(TRUTH), ignore)
    assert (score.intersection, score.union) == (2, 5)
    failed = score_masks(None, row(TRUTH), ignore, failed=True)
    assert (failed.intersection, failed.union, failed.iou) == (0, 2, 0)
    only_ignored = score_masks(row("##........"), row(".........."), ignore)
    assert only_ignored == NOTHING
    assert score_masks(None, row(TRUTH), row("#" * 10)).true_empty


def test_masks_may_be_rles():
    pred, truth, ignore = row(".######..."), row(TRUTH), row("##........")
    assert score_masks(encode(pred), encode(truth), encode(ignore)) == score_masks(pred, truth, ignore)
    assert score_masks(encode(pred), truth) == PARTLY


def test_numbers_are_plain():
    assert type(PARTLY.intersection) is int and type(PARTLY.pred_empty) is bool
    assert type(giou(ALL)) is type(n_acc(ALL)) is float


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UserError, match="different sizes"):
        score_masks(row("##"), row("###"))
    with pytest.raises(UserError, match="different sizes"):
        score_masks(row("##"), row("##"), row("###"))
    with pytest.raises(UserError, match="no mask"):
        score_masks(row("##"), None)


def test_a_score_can_be_written_by_hand():
    assert Score(3, 7).iou == 3 / 7

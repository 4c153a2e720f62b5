"""Statistics of terms on recorded answers."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from rewards.search.term_statistics import fit, fit_of_totals, rank_correlation, term_statistics


def test_rank_correlation_is_spearmans_with_ties():
    rng = np.random.default_rng(1)
    for _ in range(20):
        a, b = rng.integers(6, size=30), rng.integers(4, size=30)
        assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_differences_by_rounding_alone_are_ties():
    assert rank_correlation([0.1 + 0.2, 0.3, 0.9], [1, 1, 2]) == 1


def test_terms_are_described_one_by_one():
    ious = [[0.0, 0.5, 1.0], [0.2, 0.2, 0.2]]
    scores = [
        [{"right": 0.0, "wrong": 2.0, "still": 1.0}, {"right": 0.5, "wrong": 1.0, "still": 1.0},
         {"right": 1.0, "wrong": 0.0, "still": 1.0}],
        [{"right": 0.2, "wrong": 1.6, "still": 1.0}] * 3,
    ]  # fmt: skip
    right, still, wrong, total = term_statistics(scores, ious)
    assert [one.name for one in (right, still, wrong, total)] == ["right", "still", "wrong", "total"]
    assert right.correlation == 1 and wrong.correlation == -1 and total.correlation == -1
    assert not still.moves and still.flat == 1 and right.flat == 0.5
    assert total.mean == pytest.approx(right.mean + still.mean + wrong.mean)


def test_an_absent_term_counts_as_0():
    [a, b, _] = term_statistics([[{"a": 1.0}, {"b": 1.0}]], [[0.0, 1.0]])
    assert (a.mean, b.mean) == (0.5, 0.5) and a.correlation == -1


def test_fit_knows_groups_from_the_whole():
    """A reward that ranks questions by their difficulty, and all answers to a question alike, teaches nothing."""
    ious = [[0.1, 0.2, 0.3], [0.7, 0.8, 0.9]]
    flat = fit_of_totals([[1.0] * 3, [2.0] * 3], ious)
    assert flat.correlation > 0.8 and flat.within == flat.agreement == flat.spread == 0
    good = fit_of_totals(ious, ious)
    assert (good.correlation, good.within, good.agreement, good.spread, good.score) == (1, 1, 1, 1, 1)
    hacked = fit_of_totals([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], ious)
    assert hacked.within == -1 and hacked.score < flat.score < good.score


def test_groups_whose_answers_are_equally_good_say_nothing():
    assert fit([[{"a": 1.0}, {"a": 0.0}]], [[0.5, 0.51]]).spread == 0

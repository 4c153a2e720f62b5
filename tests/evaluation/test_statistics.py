"""Resampling against what can be worked out: small cases exactly, large ones by the normal approximation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segzero.evaluation import statistics
from segzero.evaluation.statistics import bootstrap, interval, sign_flips


def test_two_samples_drawn_twice():
    """0 and 1 drawn twice sum to 0, 1, 2 in a quarter, a half, a quarter of the draws."""
    sums = bootstrap([[0.0], [1.0]], resamples=8000)[:, 0]
    assert [np.mean(sums == total) for total in (0, 1, 2)] == pytest.approx([0.25, 0.5, 0.25], abs=0.02)


def test_a_share_of_many_samples():
    """Half of 400: its standard error is 0.5 / 20, so the interval is 0.5 and 1.96 times 0.025 about it."""
    shares = bootstrap(np.arange(400)[:, None] % 2, resamples=8000) / 400
    low, high = interval(shares)
    assert (low[0], high[0]) == pytest.approx((0.451, 0.549), abs=0.005)


def test_both_sides_of_a_line_are_drawn_together():
    """Intersections and unions in one proportion: however drawn, the figure is that proportion."""
    sums = bootstrap([[1.0, 2.0], [10.0, 20.0], [300.0, 600.0]])
    assert len(sums) == 1000 and (sums[:, 0] / sums[:, 1] == 0.5).all()


def test_a_seed_gives_the_same_numbers_and_another_gives_others():
    columns = np.arange(20.0)[:, None]
    assert (bootstrap(columns, seed=3) == bootstrap(columns, seed=3)).all()
    assert (bootstrap(columns, seed=3) != bootstrap(columns, seed=4)).any()


def test_little_is_in_memory_at_once(monkeypatch):
    monkeypatch.setattr(statistics, "PLACES_IN_MEMORY", 50)
    assert bootstrap(np.ones((20, 1)), resamples=7).tolist() == [[20.0]] * 7


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_an_interval_lies_within_the_samples(values):
    low, high = interval(bootstrap(np.array(values)[:, None], resamples=50) / len(values))
    assert min(values) - 1e-9 <= low[0] <= high[0] <= max(values) + 1e-9


def test_an_interval_passes_over_resamples_without_the_figure():
    low, high = interval(np.array([[np.nan, np.nan], [1.0, np.nan], [1.0, np.nan]]))
    assert (low[0], high[0]) == (1, 1) and np.isnan([low[1], high[1]]).all()


def mean_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return b - a


def test_three_samples_that_all_gained():
    """Of the 8 ways to flip three equal differences, two reach the sum of three: p = 1/4."""
    p = sign_flips(np.zeros((3, 1)), np.ones((3, 1)), mean_difference)
    assert p[0] == pytest.approx(0.25, abs=0.02)


def test_a_gain_as_large_as_the_loss():
    p = sign_flips(np.array([[0.0], [1.0]]), np.array([[1.0], [0.0]]), mean_difference)
    assert p[0] == 1


def test_swapped_samples_take_both_sides_of_the_line_with_them():
    """a: 0/1 and 0/9, b: 1/1 and 0/9. The difference is 1/10, and swapping gives 1/10 or -1/10: p = 1."""
    a, b = np.array([[0.0, 1.0], [0.0, 9.0]]), np.array([[1.0, 1.0], [0.0, 9.0]])
    p = sign_flips(a, b, lambda x, y: y[..., :1] / y[..., 1:] - x[..., :1] / x[..., 1:])
    assert p[0] == 1


def test_runs_that_differ_by_chance_are_rarely_told_apart():
    """Of 200 pairs of runs of one quality, about 5 % have p <= 0.05: between 2 and 20 with all but certainty."""
    random = np.random.default_rng(0)
    runs = random.random((200, 2, 40, 1))
    p = [sign_flips(a, b, mean_difference, flips=400)[0] for a, b in runs]
    assert 2 <= sum(value <= 0.05 for value in p) <= 20

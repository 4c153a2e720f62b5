"""Uncertainty of figures: bootstrap intervals, and p-values of the difference between two runs.

Both draw whole rows, so that a row's parts of a figure's numerator and denominator are drawn together. A row is a
sample, or a whole dialogue, as its rounds depend on each other. The same seed gives the same numbers.

>>> sums = bootstrap([[0.0], [1.0], [1.0], [2.0]], resamples=4000)
>>> [round(bound, 2) for bound in np.quantile(sums[:, 0] / 4, [0.025, 0.975]).tolist()]
[0.25, 1.75]
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000
FLIPS = 10_000
PLACES_IN_MEMORY = 1 << 19  # drawn places, at a time


def bootstrap(columns: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """Draw N rows of [N, C] with replacement, B times; returns the sums [B, C] of their columns."""
    columns = np.asarray(columns, dtype=np.float64)
    rows, random = len(columns), np.random.default_rng(seed)
    sums = []
    for some in _portions(resamples, rows):
        drawn = random.integers(rows, size=(some, rows)) + rows * np.arange(some)[:, None]
        times = np.bincount(drawn.ravel(), minlength=some * rows).reshape(some, rows)  # that each row was drawn
        sums.append(times.astype(np.float64) @ columns)
    return np.concatenate(sums)


def interval(values: NDArray, level: float = 0.95) -> tuple[NDArray, NDArray]:
    """Bounds, low [F] and high [F], of the middle share of resampled figures [B, F]; nan if all resamples are nan."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    bounds = np.full((2, values.shape[1]), np.nan)
    known = ~np.isnan(values).all(axis=0)
    bounds[:, known] = np.nanquantile(values[:, known], tails, axis=0)
    return bounds[0], bounds[1]


def sign_flips(
    a: NDArray, b: NDArray, difference: Callable[[NDArray, NDArray], NDArray], flips: int = FLIPS, seed: int = 0
) -> NDArray[np.float64]:
    """Two-sided p-values [F]: how often swapping the two runs' rows at random makes so large a difference.

    `a` and `b` are columns [N, C]; `difference` gives figures [..., F] of their sums [..., C]. For a mean, a swap
    flips the sign of the sample's difference. With k of n swaps at least as large the p-value is (k + 1) / (n + 1).
    """
    random, apart = np.random.default_rng(seed), b - a
    sum_a, sum_b = a.sum(axis=0), b.sum(axis=0)
    observed = np.abs(difference(sum_a, sum_b))
    larger = np.zeros_like(observed)
    for some in _portions(flips, len(a)):
        moved = random.integers(2, size=(some, len(a))).astype(np.float64) @ apart  # [some, C]
        swapped = np.abs(difference(sum_a + moved, sum_b - moved))
        larger += (swapped >= observed * (1 - 1e-9) - 1e-12).sum(axis=0)
    return np.where(np.isnan(observed), np.nan, (larger + 1) / (flips + 1))


def _portions(total: int, rows: int) -> Iterator[int]:
    most = max(1, PLACES_IN_MEMORY // max(rows, 1))
    for begin in range(0, total, most):
        yield min(most, total - begin)

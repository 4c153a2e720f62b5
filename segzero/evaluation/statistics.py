"""How sure a figure is: bootstrap intervals, and whether two runs over the same samples differ.

Both draw whole samples, so what a sample adds above and below a figure's line is drawn together. Rounds of a dialogue
depend on each other: there a row is a whole dialogue. The same seed gives the same numbers.

>>> sums = bootstrap([[0.0], [1.0], [1.0], [2.0]], resamples=4000)
>>> [round(bound, 2) for bound in np.quantile(sums[:, 0] / 4, [0.025, 0.975]).tolist()]
[0.25, 1.75]
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000
FLIPS = 10_000
AT_ONCE = 1 << 19  # drawn places in memory at a time


def bootstrap(columns: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """Sums [B, C] of the columns of N rows [N, C] drawn with replacement, N at a time, B times."""
    columns = np.asarray(columns, dtype=np.float64)
    rows, random = len(columns), np.random.default_rng(seed)
    sums = []
    for some in _portions(resamples, rows):
        drawn = random.integers(rows, size=(some, rows)) + rows * np.arange(some)[:, None]
        times = np.bincount(drawn.ravel(), minlength=some * rows).reshape(some, rows)  # how often each was drawn
        sums.append(times.astype(np.float64) @ columns)
    return np.concatenate(sums)


def interval(values: NDArray, level: float = 0.95) -> tuple[NDArray, NDArray]:
    """The middle share of resampled figures [B, F]: low [F] and high [F]; nan for a figure that no resample has."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    bounds = np.full((2, values.shape[1]), np.nan)
    known = ~np.isnan(values).all(axis=0)
    bounds[:, known] = np.nanquantile(values[:, known], tails, axis=0)
    return bounds[0], bounds[1]


def sign_flips(
    a: NDArray, b: NDArray, difference: Callable[[NDArray, NDArray], NDArray], flips: int = FLIPS, seed: int = 0
) -> NDArray[np.float64]:
    """Two-sided p-values [F]: how often a difference so large comes of swapping the two runs' rows at random.

    `a` and `b` are columns [N, C]; `difference` gives figures [..., F] of their sums [..., C]. For a mean, a swap
    flips the sign of the sample's difference. With k of n swaps at least as large the p-value is (k + 1) / (n + 1).
    """
    random, apart = np.random.default_rng(seed), b - a
    sum_a, sum_b = a.sum(axis=0), b.sum(axis=0)
    seen = np.abs(difference(sum_a, sum_b))
    larger = np.zeros_like(seen)
    for some in _portions(flips, len(a)):
        moved = random.integers(2, size=(some, len(a))).astype(np.float64) @ apart  # [some, C]
        found = np.abs(difference(sum_a + moved, sum_b - moved))
        larger += (found >= seen * (1 - 1e-9) - 1e-12).sum(axis=0)
    return np.where(np.isnan(seen), np.nan, (larger + 1) / (flips + 1))


def _portions(total: int, rows: int) -> Iterator[int]:
    most = max(1, AT_ONCE // max(rows, 1))
    for begin in range(0, total, most):
        yield min(most, total - begin)

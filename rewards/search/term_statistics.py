"""Statistics of a reward on recorded answers: what each term does, and how well the sum agrees with the masks' IoU.

Answers come in groups, all answers of a group to one question: GRPO compares within groups alone.

>>> scores = [[{"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 1.0}], [{"a": 0.5, "b": 1.0}, {"a": 0.2, "b": 1.0}]]
>>> ious = [[0.0, 0.9], [0.8, 0.3]]
>>> for term in term_statistics(scores, ious):
...     print(term.name, term.mean, term.flat, term.correlation)
a 0.425 0.0 1.0
b 1.0 1.0 0.0
total 1.425 0.0 1.0
>>> fit(scores, ious).score
1.0
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FLAT = 1e-6  # a group whose values differ by less teaches nothing
APART = 0.02  # IoUs of a group that differ by more, in all, say which answer is better
TOTAL = "total"

Scores = Sequence[Sequence[Mapping[str, float]]]  # by group and answer: value of each term
IoUs = Sequence[Sequence[float]]  # by group and answer


@dataclass(frozen=True)
class TermStatistics:
    """A term's values over all recorded answers."""

    name: str
    mean: float
    spread: float  # standard deviation over all answers
    flat: float  # share of groups whose answers all have the same value
    correlation: float  # rank correlation with the IoU of masks; 0 for a term that never moves

    @property
    def moves(self) -> bool:
        """Whether any two answers have different values."""
        return self.spread >= FLAT


@dataclass(frozen=True)
class Fit:
    """Agreement of a reward with the IoU of masks on recorded answers."""

    correlation: float  # of ranks, over all answers
    within: float  # ... within each group whose IoUs differ, their mean; a flat group counts 0
    agreement: float  # share of those groups in which it is above 0
    spread: float  # share of those groups whose answers do not all earn the same

    @property
    def score(self) -> float:
        """The number that candidates are selected by: the mean of the first three."""
        return (self.correlation + self.within + self.agreement) / 3


def term_statistics(scores: Scores, ious: IoUs) -> list[TermStatistics]:
    """Describe every term, in order of its name, and the total; an answer without a term has 0 in it."""
    names = sorted({name for group in scores for terms in group for name in terms})
    by_term = {name: [[terms.get(name, 0.0) for terms in group] for group in scores] for name in names}
    by_term[TOTAL] = totals(scores)
    return [_describe(name, values, ious) for name, values in by_term.items()]


def totals(scores: Scores) -> list[list[float]]:
    """Sums of the terms, by group and answer."""
    return [[sum(terms.values()) for terms in group] for group in scores]


def fit(scores: Scores, ious: IoUs) -> Fit:
    """Compare the totals with the IoUs."""
    return fit_of_totals(totals(scores), ious)


def fit_of_totals(earned: Sequence[Sequence[float]], ious: IoUs) -> Fit:
    """Compare the sums that answers earn with their IoUs; without a group whose IoUs differ, all but one are 0."""
    pairs = [(group, iou) for group, iou in zip(earned, ious, strict=True) if max(iou) - min(iou) > APART]
    inside = [rank_correlation(group, iou) for group, iou in pairs]
    of = max(1, len(pairs))
    return Fit(
        rank_correlation(_flat_list(earned), _flat_list(ious)),
        sum(inside) / of,
        sum(value > 0 for value in inside) / of,
        sum(max(group) - min(group) >= FLAT for group, _ in pairs) / of,
    )


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's correlation of two lists, ties sharing their mean rank; 0 where one of them never moves.

    >>> rank_correlation([1, 2, 3], [10, 20, 15]), rank_correlation([1, 1], [2, 3])
    (0.5, 0.0)
    """
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    a_off, b_off = ranks_a - ranks_a.mean(), ranks_b - ranks_b.mean()
    length = float(np.sqrt((a_off**2).sum() * (b_off**2).sum()))
    return round(float((a_off * b_off).sum()) / length, 12) if length else 0.0


def _ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Ranks from 0; values that differ by rounding alone are ties."""
    _, places, counts = np.unique(np.round(np.asarray(values, float), 6), return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts + 1) / 2)[places.ravel()]
    return ranks


def _describe(name: str, values: Sequence[Sequence[float]], ious: IoUs) -> TermStatistics:
    every = _flat_list(values)
    flat = [max(group) - min(group) < FLAT for group in values]
    correlation = rank_correlation(every, _flat_list(ious))
    return TermStatistics(name, float(np.mean(every)), float(np.std(every)), float(np.mean(flat)), correlation)


def _flat_list(groups: Sequence[Sequence[float]]) -> list[float]:
    return [value for group in groups for value in group]

"""Comparison of two rewards by policies trained with them from several seeds, over the same questions.

Seeds are pooled: a question's answers from all seeds are drawn together, so that a figure's interval says what other
questions would have given. Of gIoU a second interval draws the seeds, too; with three of them it is a rough one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from segzero.evaluation.compare import compare_runs
from segzero.evaluation.figures import Table
from segzero.evaluation.scoring import Row
from segzero.evaluation.statistics import RESAMPLES

COMPARED = {"giou": "gIoU", "ciou": "cIoU", "n_acc": "N-acc", "t_acc": "T-acc", "answered": "readable"}


@dataclass(frozen=True)
class ComparedFigure:
    """A figure of both rewards over all seeds, with the 95 % interval of the difference and its p-value."""

    name: str
    base: float
    winner: float
    difference: float
    low: float
    high: float
    p: float
    by_seed: tuple[float, ...]  # differences


@dataclass(frozen=True)
class RewardComparison:
    """All figures, the number of seeds and of questions."""

    figures: tuple[ComparedFigure, ...]
    seeds: int
    questions: int
    with_seeds: tuple[float, ...]  # 95 % interval of the difference in gIoU, seeds and questions drawn

    @property
    def in_words(self) -> str:
        """The leading figure in a line."""
        one = self.figures[0]
        return (
            f"{one.name} {one.base:.3f} with the base, {one.winner:.3f} with the winner: {one.difference:+.3f} "
            f"({one.low:+.3f} to {one.high:+.3f})"
        )

    @property
    def better(self) -> bool:
        """Whether the whole interval of the leading figure is above 0."""
        return self.figures[0].low > 0


def compare_finals(base: Sequence[Sequence[Row]], winner: Sequence[Sequence[Row]]) -> RewardComparison:
    """Compare the scores of both rewards, a list of rows per seed."""
    together = compare_runs(_pool(base), _pool(winner))["figures"]
    of_seeds = [[Table.from_rows(rows).values() for rows in runs] for runs in (base, winner)]
    figures = [
        ComparedFigure(
            shown,
            together[name]["a"],
            together[name]["b"],
            together[name]["difference"],
            together[name]["low"],
            together[name]["high"],
            together[name]["p"],
            tuple(float(np.round(w[name] - b[name], 6)) for b, w in zip(*of_seeds, strict=True)),
        )
        for name, shown in COMPARED.items()
        if name in together
    ]
    return RewardComparison(tuple(figures), len(base), len(base[0]), _interval_with_seeds(base, winner))


def _interval_with_seeds(base: Sequence[Sequence[Row]], winner: Sequence[Sequence[Row]]) -> tuple[float, ...]:
    """Draw seeds, and questions for all of them, with replacement; 95 % interval of the mean difference in IoU."""
    ious = [[[row.score.iou if row.score else 0.0 for row in rows] for rows in runs] for runs in (base, winner)]
    apart = np.subtract(ious[1], ious[0])  # [S, Q]
    seeds, questions = apart.shape
    rng = np.random.default_rng(0)
    means = [
        apart[np.ix_(rng.integers(seeds, size=seeds), rng.integers(questions, size=questions))].mean()
        for _ in range(RESAMPLES)
    ]
    return tuple(round(float(bound), 6) for bound in np.quantile(means, [0.025, 0.975]))


def _pool(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """Rows of all seeds under names of their own; those of a question, or of its dialogue, are drawn together."""
    return [
        replace(row, id=f"{row.id} seed {seed}", dialogue=row.dialogue or row.id)
        for seed, rows in enumerate(runs, 1)
        for row in rows
    ]

"""The part of a search that trains: which candidates, how long, and how often, within a budget of time.

>>> plan_trials(seconds=2000, finalists=4, trial_steps=20, seeds=3, step=2.0).finalists
4
>>> plan_trials(seconds=600, finalists=4, trial_steps=20, seeds=3, step=2.0)
TrialPlan(finalists=2, seeds=1, seconds=535.0)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rewards.search.term_statistics import rank_correlation
from segzero.reward_search.records import SearchCandidate
from segzero.reward_search.trials import FINAL_SECONDS, START_SECONDS, TrainingTrial

ALIKE = 0.995  # rank correlation within groups above which two rewards teach the same
LEAST_FINALISTS = 2


@dataclass(frozen=True)
class TrialPlan:
    """Number of candidates in the first round of trials, number of seeds of the comparison, and the time of all."""

    finalists: int
    seeds: int
    seconds: float


def plan_trials(seconds: float, finalists: int, trial_steps: int, seeds: int, step: float) -> TrialPlan:
    """Fit the trials into the time: fewer finalists first, down to two, then fewer seeds, down to one."""
    plans = [(count, seeds) for count in range(finalists, min(LEAST_FINALISTS, finalists) - 1, -1)]
    plans += [(min(LEAST_FINALISTS, finalists), fewer) for fewer in range(seeds - 1, 0, -1)]
    for count, some in plans:
        needed = trials_seconds(count, trial_steps, step) + finals_seconds(some, 2 * trial_steps, step)
        if needed <= seconds:
            break
    return TrialPlan(count, some, needed)


def trials_seconds(finalists: int, steps: int, step: float) -> float:
    """Seconds of both rounds; half of the candidates go on."""
    rounds = [finalists, (finalists + 1) // 2] if finalists > 1 else [finalists]
    return sum(rounds) * (START_SECONDS + steps * step)


def finals_seconds(seeds: int, steps: int, step: float) -> float:
    """Seconds of the comparison of the winner with the base."""
    return 2 * seeds * (START_SECONDS + steps * step + FINAL_SECONDS)


def choose_finalists(
    candidates: Sequence[SearchCandidate],
    most: int,
    totals: Callable[[SearchCandidate], Sequence[Sequence[float]]],
) -> list[SearchCandidate]:
    """Take the best by score, passing over those that order the recorded answers as one that was taken does."""
    taken: list[tuple[SearchCandidate, Sequence[Sequence[float]]]] = []
    for one in sorted((c for c in candidates if not c.problem), key=lambda c: (-c.score, c.id)):
        earned = totals(one)
        if all(likeness(earned, other) < ALIKE for _, other in taken):
            taken.append((one, earned))
        if len(taken) == most:
            break
    return [one for one, _ in taken]


def likeness(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """Rank correlation of two rewards over all answers; over groups in which one of them moves, at most their mean."""
    inside = [rank_correlation(a, b) for a, b in zip(one, other, strict=True) if max(a) > min(a) or max(b) > min(b)]
    over_all = rank_correlation([v for group in one for v in group], [v for group in other for v in group])
    return min(over_all, float(np.mean(inside))) if inside else over_all


def halve(trials: Sequence[tuple[SearchCandidate, TrainingTrial]]) -> list[SearchCandidate]:
    """The better half by held-out score, of an odd number the larger half."""
    ranked = sorted(trials, key=lambda pair: (-pair[1].score, pair[0].id))
    return [candidate for candidate, _ in ranked[: (len(ranked) + 1) // 2]]

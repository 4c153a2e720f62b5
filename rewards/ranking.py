"""Rank normalisation: a value becomes the share of recent values that it beats.

Continuous rewards alone trained worse than hard thresholds; ranked, they trained better (Dr.Seg). Training
with the preset `soft` therefore ranks its continuous terms (`Term.rank_normalized`):

>>> from rewards import PRESETS, Reward
>>> ranks = QuantileRanks(PRESETS["soft"])
>>> def reward(iou):
...     values = {term.name: 0.0 for term in ranks.rubric.terms} | {"box_iou": iou}
...     return Reward(ranks.rubric.total(values), values)
>>> ranks.add([reward(iou) for iou in (0.0, 0.1, 0.2, 0.9)])
>>> [round(r.terms["box_iou"], 2) for r in ranks.rank([reward(0.0), reward(0.1), reward(0.5), reward(0.95)])]
[0.0, 0.33, 0.75, 1.0]
"""

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from rewards.rubric import Reward, Rubric


class QuantileRanks:
    """A memory of the last values of a rubric's rank-normalised terms, first in, first out.

    A value becomes the share it beats of the remembered values that differ from it: the best is 1, the worst 0,
    and equal ones stay equal. With nothing to compare with, it stays as it is. For equal responses of one step to
    earn the same, `rank` a whole step before you `add` it (or after), never alternately.
    """

    def __init__(self, rubric: Rubric, capacity: int = 2048) -> None:
        self.rubric = rubric
        self.seen: dict[str, deque[float]] = {term: deque(maxlen=capacity) for term in rubric.rank_normalized}

    def add(self, rewards: Iterable[Reward]) -> None:
        """Remember the values of rewards, as they were before ranking."""
        for reward in rewards:
            for name, values in self.seen.items():
                values.append(reward.terms[name])

    def rank(self, rewards: Sequence[Reward]) -> list[Reward]:
        """Replace the values of rewards by their ranks, and the totals accordingly."""
        ranked = [dict(reward.terms) for reward in rewards]
        for name, seen in self.seen.items():
            ordered = np.sort(seen)
            for terms in ranked:
                below = int(np.searchsorted(ordered, terms[name], side="left"))
                above = len(ordered) - int(np.searchsorted(ordered, terms[name], side="right"))
                if below + above:
                    terms[name] = below / (below + above)
        return [Reward(self.rubric.total(terms), terms) for terms in ranked]

    def state(self) -> dict[str, list[float]]:
        """The memory as plain lists for a checkpoint; `restore` reads them."""
        return {name: list(values) for name, values in self.seen.items()}

    def restore(self, state: dict[str, list[float]]) -> None:
        """Replace the memory by the one that `state` returned."""
        for name, values in self.seen.items():
            values.clear()
            values.extend(state[name])

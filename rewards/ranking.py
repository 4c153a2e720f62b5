"""Rank normalisation: what a value is worth is how many of the recent ones it beats.

Continuous rewards alone trained worse than hard thresholds; ranked, they trained better (Dr.Seg). Training
with the preset `soft` therefore ranks its continuous terms:

>>> from rewards import PRESETS, Reward
>>> ranks = QuantileRanks(PRESETS["soft"], ["box_iou"])
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
    """The last values of some terms, first in, first out; the only reward code with a memory.

    A value becomes the share it beats of the values that differ from it: the best seen is 1, the worst 0,
    equals stay equal. With nothing to compare with it stays as it is. For equal responses of one step to
    earn the same, `rank` a whole step before you `add` it (or after), never in turns.
    """

    def __init__(self, rubric: Rubric, terms: Iterable[str], capacity: int = 2048) -> None:
        self.rubric = rubric
        self.seen: dict[str, deque[float]] = {term: deque(maxlen=capacity) for term in terms}
        unknown = self.seen.keys() - {term.name for term in rubric.terms}
        assert not unknown, f"not in the rubric: {unknown}"

    def add(self, rewards: Iterable[Reward]) -> None:
        """Remember the values of these rewards, as they were before ranking."""
        for reward in rewards:
            for name, values in self.seen.items():
                values.append(reward.terms[name])

    def rank(self, rewards: Sequence[Reward]) -> list[Reward]:
        """The same rewards with ranks in the place of values, and totals to match."""
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
        """Plain lists for a checkpoint; `restore` takes them back."""
        return {name: list(values) for name, values in self.seen.items()}

    def restore(self, state: dict[str, list[float]]) -> None:
        for name, values in self.seen.items():
            values.clear()
            values.extend(state[name])

"""The penalty for overlong answers (DAPO's soft punishment): what a reward loses as its answer nears the limit.

It depends on the number of tokens, which a `Case` does not know: training applies it to the finished reward, as it does
with ranks.

>>> overlong = Overlong(limit=100, share=0.2, penalty=0.5)
>>> [overlong.value(tokens) for tokens in (80, 90, 100)]
[0.0, -0.5, -1.0]
>>> overlong.apply(Reward(3.0, {"format": 1.0}), 90)
Reward(total=2.75, terms={'format': 1.0, 'overlong': -0.5})
"""

from dataclasses import dataclass

from rewards.rubric import Reward


@dataclass(frozen=True)
class Overlong:
    """The last `share` of `limit` tokens, over which a reward falls linearly by `penalty`."""

    limit: int
    share: float  # above 0, up to 1
    penalty: float

    def value(self, tokens: int) -> float:
        """Value of the term `overlong`: 0 before the last share, -1 for an answer that the limit cut off."""
        buffer = self.share * self.limit
        return max(-1.0, min(0.0, (self.limit - tokens) / buffer - 1.0))

    def apply(self, reward: Reward, tokens: int) -> Reward:
        """Add the term to the reward of an answer of so many tokens."""
        value = self.value(tokens)
        return Reward(reward.total + self.penalty * value, reward.terms | {"overlong": value})

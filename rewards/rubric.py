"""What a reward is made of: named, weighted terms, and their sum with its breakdown.

>>> from rewards import read_case
>>> rubric = Rubric((Term("short", lambda case: float(len(case.response) < 10), weight=2),))
>>> rubric.score(read_case("<answer>", []))
Reward(total=2.0, terms={'short': 1.0})
"""

from collections.abc import Callable
from dataclasses import dataclass

from rewards.case import Case
from segzero.errors import UserError

_ROUNDING = 1e-9  # a mean of ones may come out a hair above one


@dataclass(frozen=True)
class Reward:
    """What one response earned: the weighted sum, and each term before its weight."""

    total: float
    terms: dict[str, float]


@dataclass(frozen=True)
class Term:
    """A pure function of a case, the range of its values, and how much it counts."""

    name: str
    value: Callable[[Case], float]
    weight: float = 1.0
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Rubric:
    """Terms that are added up. Names are unique, and the weights' sum is above 0."""

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        names = [term.name for term in self.terms]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"rubric: two terms are called {name!r}; give each its own name")
        if not sum(term.weight for term in self.terms) > 0:
            raise UserError("rubric: the weights of its terms must add up to more than 0")

    @property
    def highest(self) -> float:
        """The largest total there can be."""
        return sum(max(t.weight * t.low, t.weight * t.high) for t in self.terms)

    @property
    def lowest(self) -> float:
        """The smallest total there can be."""
        return sum(min(t.weight * t.low, t.weight * t.high) for t in self.terms)

    def score(self, case: Case) -> Reward:
        values = {term.name: float(term.value(case)) for term in self.terms}
        for term in self.terms:
            inside = term.low - _ROUNDING <= values[term.name] <= term.high + _ROUNDING
            assert inside, f"{term.name} is {values[term.name]}, declared {term.low} to {term.high}"
        return Reward(self.total(values), values)

    def total(self, values: dict[str, float]) -> float:
        """The weighted sum of such values."""
        return float(sum(term.weight * values[term.name] for term in self.terms))

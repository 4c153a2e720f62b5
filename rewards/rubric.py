"""Rewards made of named, weighted terms: their sum, and its breakdown.

>>> from rewards import Case
>>> rubric = Rubric((Term("short", lambda case: float(len(case.response) < 10), weight=2),))
>>> rubric.score(Case.of_objects("<answer>", []))
Reward(total=2.0, terms={'short': 1.0})
"""

from collections.abc import Callable
from dataclasses import dataclass

from rewards.case import Case
from segzero.errors import UserError

_ROUNDING = 1e-9  # a mean of ones may come out slightly above one


@dataclass(frozen=True)
class Reward:
    """Worth of one response: the weighted sum, and each term before its weight."""

    total: float
    terms: dict[str, float]


@dataclass(frozen=True)
class Term:
    """A pure function of a case, the range of its values, and its weight."""

    name: str
    value: Callable[[Case], float]
    weight: float = 1.0
    low: float = 0.0
    high: float = 1.0
    needs_masks: bool = False  # compares the segmenter's masks, so that training needs a segmenter
    needs_retelling: bool = False  # scores the answer to the think-chain, so that training asks for one
    rank_normalized: bool = False  # training passes its values through QuantileRanks


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
    def needs_masks(self) -> bool:
        """True if a term compares the segmenter's masks."""
        return any(term.needs_masks for term in self.terms)

    @property
    def needs_retelling(self) -> bool:
        """True if a term scores the answer to the response's think-chain."""
        return any(term.needs_retelling for term in self.terms)

    @property
    def rank_normalized(self) -> tuple[str, ...]:
        """Names of the terms that training passes through QuantileRanks."""
        return tuple(term.name for term in self.terms if term.rank_normalized)

    @property
    def highest(self) -> float:
        """The largest possible total."""
        return sum(max(t.weight * t.low, t.weight * t.high) for t in self.terms)

    @property
    def lowest(self) -> float:
        """The smallest possible total."""
        return sum(min(t.weight * t.low, t.weight * t.high) for t in self.terms)

    def score(self, case: Case) -> Reward:
        """Score a case with every term; a value outside the declared range is a bug in the term."""
        values = {term.name: float(term.value(case)) for term in self.terms}
        for term in self.terms:
            inside = term.low - _ROUNDING <= values[term.name] <= term.high + _ROUNDING
            assert inside, f"{term.name} is {values[term.name]}, declared {term.low} to {term.high}"
        return Reward(self.total(values), values)

    def total(self, values: dict[str, float]) -> float:
        """The weighted sum of the terms' values."""
        return float(sum(term.weight * values[term.name] for term in self.terms))

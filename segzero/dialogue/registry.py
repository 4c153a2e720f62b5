"""The rounds of a dialogue so far, and their regions, whose numbers later rounds can name.

>>> registry = Registry((100, 80)).add(Round(1, "the mug"))
>>> registry.rounds[0].state, registry.regions
('nothing', ())
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from segzero.errors import UserError
from segzero.frames import Size
from segzero.io import finite_or_zero
from segzero.masks import RLE, Box, Point, decode, encode
from segzero.result import InstanceMask
from segzero.viz.overlay import Color, color_of


@dataclass(frozen=True)
class Region:
    """One object of a round, in original pixels."""

    id: int  # 1, 2, ... through the whole dialogue
    round: int
    question: str
    box: Box
    points: tuple[Point, ...]
    labels: tuple[int, ...]  # of each point: 1 inside, 0 outside
    rle: RLE = field(repr=False, hash=False)  # a dict
    score: float  # the IoU that the segmenter expects of the mask

    @property
    def color(self) -> Color:
        """The region's colour in every overlay."""
        return color_of(self.id - 1)

    @property
    def inside(self) -> tuple[Point, ...]:
        """The points with label 1."""
        return tuple(point for point, label in zip(self.points, self.labels, strict=True) if label)

    @property
    def instance(self) -> InstanceMask:
        """The region as an instance of a result: its mask decoded, points outside it left out."""
        return InstanceMask(decode(self.rle), self.box, self.inside, self.score, self.id)


@dataclass(frozen=True)
class Round:
    """A question with its answer."""

    number: int  # 1, 2, ...
    question: str  # as the person wrote it; a round drawn by hand may have none
    regions: tuple[Region, ...] = ()
    refers: tuple[int, ...] = ()  # the rounds that its question refers to
    think: str = ""
    raw_text: str = field(default="", repr=False)
    error: str | None = None  # one of segzero.answer.ERRORS
    warnings: tuple[str, ...] = ()
    steps: tuple[dict[str, Any], ...] = field(default=(), repr=False, hash=False)  # each `RefinementStep.to_dict`

    @property
    def state(self) -> Literal["found", "nothing", "unread"]:
        """The state of the round: it found regions, found nothing, or its answer could not be read."""
        if self.error is not None:
            return "unread"
        return "found" if self.regions else "nothing"


@dataclass(frozen=True)
class Registry:
    """All rounds about an image of `size`. It is immutable: each step makes a new one, so that steps can be undone."""

    size: Size
    rounds: tuple[Round, ...] = ()

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions of all rounds; region `id` is at place id - 1."""
        return tuple(region for round in self.rounds for region in round.regions)

    @property
    def turns(self) -> tuple[dict[str, Any], ...]:
        """The rounds in the form of `Sample.turns`; a round whose answer could not be read has no boxes."""
        return tuple(
            {"question": round.question}
            if round.state == "unread"
            else {
                "question": round.question,
                "boxes": [list(region.box) for region in round.regions],
                "points": [[list(point) for point in region.inside] for region in round.regions],
                "masks": [region.rle for region in round.regions],
            }
            for round in self.rounds
        )

    def round(self, number: int) -> Round:
        """The round with this number, counted from 1."""
        if not 1 <= number <= len(self.rounds):
            raise UserError(f"there is no round {number}; {_have('round', len(self.rounds))}")
        return self.rounds[number - 1]

    def region(self, id: int) -> Region:
        """The region with this number, counted from 1 through all rounds."""
        regions = self.regions
        if not 1 <= id <= len(regions):
            raise UserError(f"there is no instance {id}; {_have('instance', len(regions))}")
        return regions[id - 1]

    def number(self, question: str, instances: tuple[InstanceMask, ...]) -> tuple[Region, ...]:
        """Number the instances of a new round as its regions."""
        first, count = len(self.regions) + 1, len(self.rounds) + 1
        return tuple(
            Region(
                id=first + place,
                round=count,
                question=question,
                box=one.box,
                points=one.points,
                labels=(1,) * len(one.points),
                rle=encode(one.mask),
                score=finite_or_zero(one.score),
            )
            for place, one in enumerate(instances)
        )

    def add(self, round: Round) -> "Registry":
        """A copy of the registry with one more round."""
        assert round.number == len(self.rounds) + 1
        return replace(self, rounds=(*self.rounds, round))

    def correct(self, region: Region) -> "Registry":
        """A copy of the registry with this region in place of the one with its number."""
        self.region(region.id)
        rounds = (
            replace(round, regions=tuple(region if old.id == region.id else old for old in round.regions))
            for round in self.rounds
        )
        return replace(self, rounds=tuple(rounds))


def _have(what: str, count: int) -> str:
    known = {0: f"no {what}s yet", 1: f"one {what}"}
    return f"this dialogue has {known.get(count, f'{what}s 1 to {count}')}"

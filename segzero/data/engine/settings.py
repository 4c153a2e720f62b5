"""Settings of a data engine: those that decide what it makes, and those that only decide how it gets there.

>>> EngineSettings(model="gemini-flash-latest").fingerprint["regions"]
8
"""

from dataclasses import asdict, dataclass
from typing import Any

from segzero.errors import UserError
from segzero.frames import Frame, native, parse_frame

# Families of concepts, by the names of ConverSeg's folders, and what their prompts ask for.
CONCEPTS = {
    "entities": "what a thing is: its kind, its parts, its material, its colour, its shape, its state",
    "spatial": "where a thing is: its place in the picture, its order, what it is near to, in front of or behind",
    "relations": "how a thing stands to another or takes part in an event: left of it, holding it, unlike the others",
    "affordances": "what a thing can be used for, or what can be done with it",
    "physics": "what would happen to a thing or because of it: whether it is stable, would roll, break or hurt",
}
STRATEGIES = {
    "object-level neighbour": "names a thing that could well be in such a picture, and is not in this one",
    "concept-level neighbour": "names a thing that is in the picture, with one attribute or relation that is false",
}
# US dollars per million tokens, in and out; ConverSeg's own run counted with these.
PRICES = {"gemini-flash-latest": (0.30, 2.50)}


@dataclass(frozen=True)
class EngineSettings:
    """Everything that an image's result depends on, but the model's mood."""

    model: str  # the model's name at its server
    segmenter: str = ""
    frame: str = "relative(1000)"  # how the model writes boxes
    longest: int = 1024  # pixels: longer side of the pictures that the model sees; masks have the image's own size
    temperature: float = 0.7
    max_tokens: int = 2048  # of an answer
    regions: int = 8  # of an image
    prompts: int = 3  # of a family and an image
    negatives: int = 4  # of an image
    votes: int = 1  # answers to each verification, of which the majority decides
    pool_iou: float = 0.5  # least IoU at which a mask of everything replaces the one of the box
    min_area: float = 0.0017  # least share of the image, for masks of everything (1000 pixels of 768x768)
    points_per_side: int = 32  # of the grid that finds everything
    concepts: tuple[str, ...] = tuple(CONCEPTS)
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"longest": 64, "max_tokens": 64, "regions": 1, "prompts": 1, "negatives": 0, "votes": 1}
        for name, low in (least | {"points_per_side": 1}).items():
            if getattr(self, name) < low:
                raise UserError(f"{name.replace('_', '-')} {getattr(self, name)}: it must be {low} or more")
        if self.votes % 2 == 0:
            raise UserError(f"votes {self.votes}: an even number may have no majority; use an odd one")
        if not 0 <= self.temperature <= 2:
            raise UserError(f"temperature {self.temperature}: it must be 0 to 2")
        if self.votes > 1 and not self.temperature:
            raise UserError(f"votes {self.votes} at temperature 0 would all be the same; raise the temperature")
        if unknown := [name for name in self.concepts if name not in CONCEPTS]:
            raise UserError(f"unknown family of concepts {unknown[0]!r}; known: {', '.join(CONCEPTS)}")
        if not self.concepts:
            raise UserError(f"no family of concepts is left; known: {', '.join(CONCEPTS)}")
        _ = self.box_frame

    @property
    def box_frame(self) -> Frame:
        """The frame of the model's boxes."""
        return parse_frame(self.frame, native())

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The settings as JSON; a folder holds the results of one fingerprint alone."""
        return {**asdict(self), "concepts": list(self.concepts)}


@dataclass(frozen=True)
class EngineLimits:
    """Speed, price and patience of a run: none of it changes a result."""

    workers: int = 4  # images at once
    budget: float | None = None  # US dollars for the folder, earlier runs included
    price: tuple[float, float] | None = None  # dollars per million tokens, in and out; None: not known
    timeout: float = 120.0  # seconds for an answer
    retries: int = 5  # of a request that the server is too busy for
    attempts: int = 3  # at an answer that can be read
    pause: float = 1.0  # seconds before the first repetition

    def __post_init__(self) -> None:
        if self.budget is not None and not self.budget > 0:
            raise UserError(f"--budget {self.budget:g}: nothing can be done for that; leave it out, or give dollars")
        if self.budget is not None and self.price is None:
            raise UserError("--budget needs the model's price: --price IN,OUT in dollars per million tokens")
        if self.workers < 1 or self.attempts < 1 or self.retries < 0 or not self.timeout > 0:
            raise UserError("--workers and --attempts must be 1 or more, --timeout above 0")


def price_of(model: str, written: str | None) -> tuple[float, float] | None:
    """Price of a model: as written, "IN,OUT", else from the table; None if it is not known.

    >>> price_of("gemini-flash-latest", None), price_of("mine", "0,0"), price_of("mine", None)
    ((0.3, 2.5), (0.0, 0.0), None)
    """
    if written is None:
        return PRICES.get(model.removeprefix("models/"))
    try:
        given, taken = (float(part) for part in written.split(","))
        if not (0 <= given < 1e6 and 0 <= taken < 1e6):
            raise ValueError
    except ValueError:
        raise UserError(f"--price {written}: write IN,OUT in dollars per million tokens, such as 0.30,2.50") from None
    return given, taken

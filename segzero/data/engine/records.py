"""Records that pass from stage to stage, and their JSON.

>>> read_record(NamedRegion, {"index": 0, "label": "a red mug"})
NamedRegion(index=0, label='a red mug')
>>> read_record(NamedRegion, {"index": "first", "label": "a red mug"})
Traceback (most recent call last):
ValueError: NamedRegion.index is not int
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from segzero.errors import UserError
from segzero.masks import RLE, check_rle

Made = TypeVar("Made")
Box = tuple[float, float, float, float]  # x0, y0, x1, y1, pixels of the original image

ACCEPT, REJECT, FAILED = "ACCEPT", "REJECT", "FAILED"  # FAILED: the model gave no verdict that can be read
INITIAL, REFINED, NEITHER = "initial", "refined", ""


@dataclass(frozen=True)
class NamedRegion:
    """A thing that the model saw, in its words."""

    index: int
    label: str


@dataclass(frozen=True)
class BoxedRegion:
    """A region with the boxes that the model gave for its label; none if it found none."""

    index: int
    label: str
    boxes: tuple[Box, ...]
    problem: str = ""  # why there is none, if the model gave no answer


@dataclass(frozen=True)
class RegionMask:
    """A region's mask: the union of those that SAM2 drew in its boxes."""

    index: int
    rle: RLE
    score: float  # mean IoU that SAM2 expects


@dataclass(frozen=True)
class PoolMask:
    """A mask of everything in the image."""

    rle: RLE
    score: float
    stability: float


@dataclass(frozen=True)
class Refinement:
    """A mask of everything that may replace a region's own."""

    index: int  # of the region
    pool: int  # number of the mask in the pool
    iou: float  # with the region's own mask
    rle: RLE


@dataclass(frozen=True)
class Verdict:
    """Decision of the model about a mask or a prompt, by majority."""

    verdict: str  # ACCEPT, REJECT or FAILED
    reason: str
    votes: int = 1  # answers that could be read
    agreeing: int = 1  # of these, with the decision
    description: str = ""


@dataclass(frozen=True)
class JudgedRegion:
    """A region's verdicts: of its own mask, of the refined one, and which of the two is kept."""

    index: int
    initial: Verdict
    refined: Verdict | None  # None: there was no other mask to judge
    output: str  # INITIAL, REFINED or NEITHER


@dataclass(frozen=True)
class AcceptedRegion:
    """A region that prompts may ask for."""

    index: int  # its number among the accepted, from 0
    region: int  # index of the NamedRegion
    label: str
    description: str
    box: Box
    rle: RLE


@dataclass(frozen=True)
class ConceptPrompt:
    """A prompt with the accepted regions that it could mean, and those that it does mean."""

    index: int
    concept: str
    prompt: str
    candidates: tuple[int, ...]
    satisfying: tuple[int, ...]
    sub_concept: str = ""
    strategy: str = ""  # of a negative, one of STRATEGIES
    problem: str = ""  # why it is rejected unasked


@dataclass(frozen=True)
class JudgedPrompt:
    """A prompt with the model's verdict."""

    prompt: ConceptPrompt
    verdict: Verdict


def to_json(record: Any) -> dict[str, Any]:
    """A record as a JSON object."""
    content: dict[str, Any] = asdict(record)
    return content


def read_record(kind: type[Made], values: object) -> Made:
    """Make a record of a JSON object; a ValueError says what does not fit."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{kind.__name__} is not an object")
    hints = get_type_hints(kind)
    unknown = values.keys() - hints.keys()
    if unknown:
        raise ValueError(f"{kind.__name__} has no {sorted(map(str, unknown))[0]!r}")
    try:
        return kind(**{name: _fit(hints[name], value, f"{kind.__name__}.{name}") for name, value in values.items()})
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from None


def _fit(hint: Any, value: Any, name: str) -> Any:
    """The value as the type that the annotation asks for."""
    if hint is RLE:
        try:
            return check_rle(value)
        except UserError as error:
            raise ValueError(f"{name}: {error}") from None
    if is_dataclass(hint):
        return read_record(hint, value)  # type: ignore[arg-type]
    if get_origin(hint) is UnionType:
        if value is None and NoneType in get_args(hint):
            return None
        return _fit(next(one for one in get_args(hint) if one is not NoneType), value, name)
    if get_origin(hint) is tuple:
        inside = get_args(hint)
        if not isinstance(value, list) or (inside[-1] is not Ellipsis and len(value) != len(inside)):
            raise ValueError(f"{name} is not a list of the right length")
        each = [inside[0]] * len(value) if inside[-1] is Ellipsis else inside
        return tuple(_fit(one, part, name) for one, part in zip(each, value, strict=True))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if hint in (int, str) and isinstance(value, hint) and not isinstance(value, bool):
        return value
    raise ValueError(f"{name} is not {hint.__name__}")

"""Geometry of objects in a picture: places, colours, distances, cuts and conditions, all of which are measured.

>>> read_condition("red and area > 0.02")
(Word(name='red', negated=False), Comparison(measure='area', above=True, bound=0.02))
"""

import colorsys
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segzero.errors import one_line
from segzero.masks import Mask, decode, encode, intersection_area, iou_matrix, merge_checked, subtract
from segzero.programs.values import Masks, ObjectMask, Size, union_of

SAME = 0.5  # IoU from which on two masks are the same object
SPECK = 0.2  # share of an object below which what is left of it, or shared with it, is an outline's error
INSIDE = 0.5  # share of an object's pixels that lie in another, if it is inside
LONGEST_CONDITION = 200  # characters
PLACES = ("left", "right", "top", "bottom", "center")  # thirds of the picture
# Hues in degrees at which a colour begins, of pixels that are bright and saturated enough to have one.
HUES = (
    (0, "red"), (15, "orange"), (42, "yellow"), (75, "green"), (160, "cyan"), (200, "blue"), (255, "purple"),
    (310, "pink"), (345, "red"),
)  # fmt: skip
GREYS = ("black", "grey", "white")
COLOURS = (*dict.fromkeys(name for _, name in HUES), "brown", *GREYS)


@dataclass(frozen=True)
class Word:
    """A colour, or a place; or anything else, if it is negated."""

    name: str
    negated: bool = False


@dataclass(frozen=True)
class Comparison:
    """A measure with its bound."""

    measure: str
    above: bool
    bound: float


Condition = Word | Comparison
MEASURES: dict[str, tuple[str, Callable[[ObjectMask, Size], float]]] = {
    "area": ("share of the picture", lambda one, size: one.area / (size[0] * size[1])),
    "width": ("share of the picture's width", lambda one, size: (one.bounds[2] - one.bounds[0]) / size[0]),
    "height": ("share of the picture's height", lambda one, size: (one.bounds[3] - one.bounds[1]) / size[1]),
    "x": ("of the centre, 0 left to 1 right", lambda one, size: one.centre[0] / size[0]),
    "y": ("of the centre, 0 top to 1 bottom", lambda one, size: one.centre[1] / size[1]),
    "holes": (
        "share of what its outline encloses that is not it",
        lambda one, size: 1 - one.area / outlined(one).sum(),
    ),
    "roundness": (
        "share that its outline fills of the circle around it: 1 for a disc",
        lambda one, size: roundness(one),
    ),
    "score": ("IoU that the segmenter expects of the mask", lambda one, size: one.score),
}


def read_condition(text: str) -> tuple[Condition, ...]:
    """Read the condition of SELECT; a ValueError says what can be written."""
    if len(text) > LONGEST_CONDITION:
        raise ValueError(f"the condition has {len(text)} characters; at most {LONGEST_CONDITION} are read")
    conditions: list[Condition] = []
    for part in re.split(r"\s+and\s+|\s*,\s*", text.strip().lower()):
        compared = re.fullmatch(r"(\w+)\s*([<>])=?\s*(\d{1,9}(?:\.\d{1,9})?|\.\d{1,9})", part)
        words = part.removeprefix("not ").split()
        if compared and compared[1] in MEASURES:
            conditions.append(Comparison(compared[1], compared[2] == ">", float(compared[3])))
        elif words and all(word in (*COLOURS, *PLACES) for word in words):
            conditions += [Word(word, part.startswith("not ")) for word in words]
        else:
            raise ValueError(
                f"{one_line(part, 40)!r} is no condition; write a colour ({', '.join(COLOURS)}), a place "
                f"({', '.join(PLACES)}) or a measure such as 'area > 0.02' ({', '.join(MEASURES)}), joined by 'and'; "
                "'not red' is the opposite"
            )
    return tuple(conditions)


def holds(conditions: Sequence[Condition], one: ObjectMask, image: Image.Image) -> bool:
    """True for an object of the picture that meets all conditions."""

    def met(condition: Condition) -> bool:
        if isinstance(condition, Comparison):
            value = MEASURES[condition.measure][1](one, image.size)
            return value > condition.bound if condition.above else value < condition.bound
        if condition.name in PLACES:
            there = condition.name in places_of(one, image.size)
        else:
            there = condition.name == colour_of(one, image)
        return there != condition.negated

    return all(met(condition) for condition in conditions)


def places_of(one: ObjectMask, size: Size) -> set[str]:
    """Places of an object, by the third of the picture in which its centre lies: {"top", "left"}, or {"center"}."""
    names = [
        ("left", "", "right")[min(int(3 * one.centre[0] / size[0]), 2)],
        ("top", "", "bottom")[min(int(3 * one.centre[1] / size[1]), 2)],
    ]
    return set(filter(None, names)) or {"center"}


def colour_of(one: ObjectMask, image: Image.Image) -> str:
    """Name of the object's colour: that of its pixels' median."""
    x0, y0, x1, y1 = map(int, one.bounds)
    pixels = np.asarray(image.crop((x0, y0, x1, y1)).convert("RGB"))[one.mask[y0:y1, x0:x1]]
    if not len(pixels):
        return "black"
    red, green, blue = (float(value) / 255 for value in np.median(pixels, axis=0))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    if saturation < 0.18 or lightness < 0.1 or lightness > 0.93:
        return "black" if lightness < 0.25 else "white" if lightness > 0.8 else "grey"
    degrees = hue * 360
    name = [name for begin, name in HUES if degrees >= begin][-1]
    return "brown" if name in ("orange", "red") and lightness < 0.35 and degrees > 10 and degrees < 42 else name


def distances(masks: Masks, others: Masks, size: Size) -> NDArray[np.float64]:
    """Pixels from the edge of each object to the nearest edge of the others, 0 where they touch."""
    from scipy.ndimage import distance_transform_edt

    away = distance_transform_edt(~decode(union_of(others, size)))
    return np.array([float(away[one.mask].min()) for one in masks])


def same_as_any(masks: Masks, others: Masks) -> NDArray[np.bool_]:
    """For each object, whether it is one of the others."""
    overlap = iou_matrix([one.rle for one in masks], [one.rle for one in others])
    return overlap.max(axis=1, initial=0.0) >= SAME


def distinct(masks: Masks) -> Masks:
    """Objects without those that are an earlier one again."""
    kept: Masks = ()
    for one in masks:
        if not same_as_any((one,), kept)[0]:
            kept += (one,)
    return kept


def without(masks: Masks, others: Masks, size: Size) -> Masks:
    """Objects without the pixels of others; one of which almost nothing is left goes."""
    if not others:
        return masks
    taken = union_of(others, size)
    kept = []
    for one in masks:
        left = subtract(one.rle, taken)
        if left is one.rle:
            kept.append(one)
        elif (cut := one.cut(left)).area > SPECK * one.area:
            kept.append(cut)
    return tuple(kept)


def shared(masks: Masks, others: Masks, size: Size) -> Masks:
    """Parts of objects that lie in others; a part that is small against both objects is an error of their outlines."""
    kept = []
    for one in masks:
        pieces = [
            other.rle for other in others if intersection_area(one.rle, other.rle) > SPECK * min(one.area, other.area)
        ]
        if pieces:
            cut = subtract(one.rle, encode(~decode(merge_checked(pieces, size))))
            kept.append(one.cut(cut))
    return tuple(kept)


def lies_inside(one: ObjectMask, others: Masks) -> bool:
    """True for an object most of which lies in another one, or in a hole of it."""
    for other in others:
        share = intersection_area(one.rle, encode(outlined(other))) / max(one.area, 1)
        if share >= INSIDE and not same_as_any((one,), (other,))[0]:
            return True
    return False


def outlined(one: ObjectMask) -> Mask:
    """Mask [H, W] of all that an object's outline encloses: its mask without holes."""
    from scipy.ndimage import binary_fill_holes

    filled: Mask = binary_fill_holes(one.mask)
    return filled


def roundness(one: ObjectMask) -> float:
    """Share of the circle around an object that its outline fills; the farthest fiftieth of its pixels is left out."""
    ys, xs = np.nonzero(outlined(one))
    away = np.hypot(xs + 0.5 - one.centre[0], ys + 0.5 - one.centre[1])
    return float(0.98 * len(xs) / (np.pi * max(float(np.quantile(away, 0.98)), 0.5) ** 2))

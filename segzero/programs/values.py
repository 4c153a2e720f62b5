"""Values of programs: pictures, objects with masks, boxes, points, numbers and texts.

Masks are kept as RLE and in pixels of the whole picture, whichever part of it an operator looked at.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from segzero.errors import UserError
from segzero.io import finite_or_zero
from segzero.masks import RLE, Box, Mask, Point, box_of_rle, check_rle, decode, encode, merge_checked, pixel_count
from segzero.result import InstanceMask

Size = tuple[int, int]  # width, height


class ProgramError(UserError):
    """A program that can't be read or run; `line` is the line that is to blame, counted from 1."""

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {problem}" if line else problem)
        self.problem, self.line = problem, line


@dataclass(frozen=True, eq=False)
class View:
    """A picture, or a part of it: its pixels, and where its corner lies in the whole picture."""

    image: Image.Image = field(repr=False)
    corner: tuple[int, int] = (0, 0)  # x, y in the whole picture
    whole: Size = (0, 0)  # of the whole picture

    @staticmethod
    def of(image: Image.Image) -> "View":
        """The view of a whole picture."""
        return View(image, (0, 0), image.size)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Place in the whole picture: x0, y0, x1, y1."""
        x, y = self.corner
        return x, y, x + self.image.width, y + self.image.height

    @property
    def is_whole(self) -> bool:
        """True unless it is a part."""
        return self.image.size == self.whole

    def to_whole(self, mask: Mask) -> Mask:
        """Put a mask [h, w] of this view into one [H, W] of the whole picture."""
        if self.is_whole:
            return mask
        placed = np.zeros((self.whole[1], self.whole[0]), bool)
        x0, y0, x1, y1 = self.box
        placed[y0:y1, x0:x1] = mask
        return placed

    def box_to_whole(self, box: Box) -> Box:
        """Move a box of this view to its place in the whole picture."""
        x, y = self.corner
        return box[0] + x, box[1] + y, box[2] + x, box[3] + y

    def point_to_whole(self, point: Point) -> Point:
        """Move a point of this view to its place in the whole picture."""
        return point[0] + self.corner[0], point[1] + self.corner[1]


@dataclass(frozen=True, eq=False)
class ObjectMask:
    """One object of a program: its mask in the whole picture, and how it was found."""

    rle: RLE
    score: float = 1.0  # IoU that the segmenter expects of the mask it was cut from
    box: Box | None = None  # in which the policy saw it; None: the mask's own
    points: tuple[Point, ...] = ()

    @cached_property
    def area(self) -> int:
        """Pixels of the mask."""
        return pixel_count(self.rle)

    @cached_property
    def bounds(self) -> Box:
        """Tightest box around the mask; all zeros for an empty one."""
        return box_of_rle(self.rle) or (0.0, 0.0, 0.0, 0.0)

    @cached_property
    def centre(self) -> Point:
        """Mean x and y of the mask's pixels."""
        ys, xs = np.nonzero(self.mask)
        return (float(xs.mean()) + 0.5, float(ys.mean()) + 0.5) if len(xs) else (0.0, 0.0)

    @property
    def mask(self) -> Mask:
        """Mask [H, W]; decoded at each access, so that hundreds of objects stay small."""
        return decode(self.rle)

    def cut(self, rle: RLE) -> "ObjectMask":
        """Copy the object with less of its mask."""
        return ObjectMask(rle, self.score)

    def instance(self) -> InstanceMask:
        """The object as an instance of a result."""
        return InstanceMask(self.mask, self.box or self.bounds, self.points, self.score)


Masks = tuple[ObjectMask, ...]
Boxes = tuple[Box, ...]
Points = tuple[Point, ...]


@dataclass(frozen=True)
class Type:
    """A type of values: its name, what it is, and how a literal of it is written, if it can be."""

    name: str
    meaning: str
    literal: str = ""


TYPES = {
    one.name: one
    for one in (
        Type("Image", "the picture, which is called IMAGE, or a part of it"),
        Type("Masks", "objects, each with its mask; there may be none"),
        Type("Boxes", "boxes x0, y0, x1, y1 in pixels", "[[10, 20, 60, 80]]"),
        Type("Points", "points x, y in pixels, all on one object", "[[30, 40]]"),
        Type("Number", "a number", "2"),
        Type("Text", "words in quotes", '"the red mug"'),
    )
}


def union_of(masks: Masks, size: Size) -> RLE:
    """Union of the objects' masks."""
    return merge_checked([one.rle for one in masks], size)


def objects_of(view: View, instances: tuple[InstanceMask, ...]) -> Masks:
    """Objects of what was found in a view; empty masks are left out."""
    return tuple(
        ObjectMask(
            encode(view.to_whole(one.mask)),
            one.score,
            view.box_to_whole(one.box),
            tuple(view.point_to_whole(point) for point in one.points),
        )
        for one in instances
        if one.mask.any()
    )


def summary_of(value: Any, type: str) -> str:
    """Tell a value in a few words.

    >>> summary_of(3.0, "Number"), summary_of((), "Masks")
    ('3', 'no objects')
    """
    if type == "Number":
        return f"{value:g}"
    if type == "Text":
        return f'"{value}"'
    if type == "Image":
        return f"{value.image.width}x{value.image.height} pixels at {value.corner[0]}, {value.corner[1]}"
    noun = {"Masks": "object", "Boxes": "box", "Points": "point"}[type]
    plural = "boxes" if noun == "box" else f"{noun}s"
    if not value:
        return f"no {plural}"
    count = f"1 {noun}" if len(value) == 1 else f"{len(value)} {plural}"
    if type != "Masks":
        return count
    areas = ", ".join(str(one.area) for one in value[:6]) + (", ..." if len(value) > 6 else "")
    return f"{count} of {areas} pixels"


def from_json(content: Any, type: str, image: Image.Image) -> Any:
    """Restore a value about a picture from what `to_json` made; masks are checked."""
    if type == "Masks":
        checked = [(check_rle(one["rle"], image.size), float(one["score"]), one["box"]) for one in content]
        return tuple(ObjectMask(rle, score, _floats(box, 4)) for rle, score, box in checked)
    if type == "Image":
        x0, y0, x1, y1 = (int(v) for v in content["box"])
        if not (0 <= x0 < x1 <= image.width and 0 <= y0 < y1 <= image.height):
            raise ValueError("a part of the picture lies outside it")
        return View(image.crop((x0, y0, x1, y1)), (x0, y0), image.size)
    if type in ("Boxes", "Points"):
        return tuple(_floats(one, 4 if type == "Boxes" else 2) for one in content)
    return float(content) if type == "Number" else str(content)


def _floats(values: Any, count: int) -> Any:
    numbers = tuple(float(v) for v in values)
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{count} numbers are expected")
    return numbers


def _object_json(one: ObjectMask) -> dict[str, Any]:
    box, score = one.box or one.bounds, finite_or_zero(one.score)
    return {"box": list(box), "score": score, "area": one.area, "rle": one.rle}


def to_json(value: Any, type: str) -> Any:
    """Convert a value into plain types for JSON; masks become RLE."""
    if type == "Masks":
        return [_object_json(one) for one in value]
    if type == "Image":
        return {"box": list(value.box)}
    if type in ("Boxes", "Points"):
        return [list(one) for one in value]
    return value

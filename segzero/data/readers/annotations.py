"""Conversion of masks and boxes in the form of COCO's files to `Object`s, after a check of all numbers.

>>> coco_object({"bbox": [1, 1, 2, 1]}, (6, 4)).box
(1.0, 1.0, 3.0, 2.0)
"""

from typing import Any

import numpy as np

from segzero.data.readers.fields import brief, get
from segzero.errors import UserError
from segzero.frames import Size
from segzero.masks import MAX_PIXELS, RLE, Mask, area, box_of, decode, encode, from_polygons, union
from segzero.sample import Box, Object

MAX_NUMBER = 1e9  # bound of coordinates


def coco_object(annotation: object, size: Size) -> Object:
    """Convert an annotation: its `segmentation` (polygons or RLE) and its `bbox` [x, y, width, height].

    Without a usable box, the object has the mask's box; without a mask, it has a box alone.
    """
    segmentation = get(annotation, "segmentation", list, dict, default=None)
    rle = coco_mask(segmentation, size) if segmentation else None
    box = _box(get(annotation, "bbox", list, default=None), size)
    if box is None and rle is not None:
        box = box_of(decode(rle))
    if box is None:
        raise UserError("an annotation has neither a mask nor a box with an area")
    return Object(box, rle=rle)


def coco_mask(segmentation: list | dict, size: Size) -> RLE:
    """Convert polygons, RLEs or one RLE to a single mask, which must have pixels and the image's size."""
    if isinstance(segmentation, dict):
        segmentation = [segmentation]
    if all(isinstance(part, dict) for part in segmentation):
        rle = union(segmentation, size)
    else:
        rle = from_polygons([numbers(part, "a polygon") for part in segmentation], size)
    if not area(rle):
        raise UserError("its polygons or RLE enclose no pixel")
    return rle


def mask_object(mask: Mask) -> tuple[Object, ...]:
    """Convert a mask to an object, or to none if the mask has no pixels."""
    box = box_of(mask)
    return () if box is None else (Object(box, rle=encode(mask)),)


def rle_object(rle: RLE) -> Object:
    """Convert a mask, which must have pixels, to an object."""
    box = box_of(decode(rle))
    if box is None:
        raise UserError("one of its masks has no pixels")
    return Object(box, rle=rle)


def boolean_mask(rows: object, size: Size) -> Mask:
    """Convert nested lists of booleans, or of zeros and ones, to a mask of exactly that size."""
    width, height = size
    if width * height > MAX_PIXELS:
        raise UserError(f"a mask of {width}x{height} is too large")
    try:
        mask = np.asarray(rows)
    except ValueError:  # rows of different lengths
        mask = np.zeros(0)
    if mask.shape != (height, width):
        shape = "x".join(str(side) for side in mask.shape[::-1]) if mask.ndim == 2 else "not a rectangle"
        raise UserError(f"its mask is {shape}, its image {width}x{height}")
    if mask.dtype.kind not in "biu":
        raise UserError("its mask must hold booleans, or zeros and ones")
    return mask != 0


def xyxy(values: object, size: Size) -> Box:
    """Check a box [x0, y0, x1, y1]: it must have an area and be in its image; a pixel beyond the edge is cut off."""
    box = numbers(values, "a box")
    if len(box) != 4:
        raise UserError(f"a box must be four numbers, not {len(box)}")
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise UserError(f"the box {_shown(box)} has no area: x0 < x1 and y0 < y1 must hold")
    if min(x0, y0) < -1 or x1 > size[0] + 1 or y1 > size[1] + 1:
        raise UserError(f"the box {_shown(box)} leaves its image of {size[0]}x{size[1]}")
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(size[0])), min(y1, float(size[1]))


def numbers(values: object, what: str) -> list[float]:
    """Check a list of finite numbers; `what` names it in error messages."""
    if not isinstance(values, list | tuple | np.ndarray):
        raise UserError(f"{what} must be a list of numbers, not {brief(values)}")
    bad = [v for v in values if isinstance(v, bool) or not isinstance(v, int | float | np.number)]
    if bad:
        raise UserError(f"{what} must be a list of numbers; it holds {brief(bad[0])}")
    if not all(-MAX_NUMBER <= v <= MAX_NUMBER for v in values):  # NaN isn't, either
        raise UserError(f"{what} holds a number that is not finite or beyond any image")
    return [float(v) for v in values]


def _box(values: Any, size: Size) -> Box | None:
    """Convert x, y, width, height to x0, y0, x1, y1 within the image; None if nothing of it has an area."""
    if not values:
        return None
    bbox = numbers(values, "a bbox")
    if len(bbox) != 4:
        raise UserError(f"a bbox must be [x, y, width, height], not {len(bbox)} numbers")
    x, y, width, height = bbox
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + width, size[0]), min(y + height, size[1])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _shown(values: list[float]) -> str:
    return "[" + ", ".join(f"{v:g}" for v in values) + "]"

"""What masks share, counted on their runs: nothing is decoded, so that a large image costs what its outlines cost.

>>> a, b = to_rle([[1, 1, 0]]), to_rle([[0, 1, 1]])
>>> area(a), shared(a, b), mask_box(b), iou_table([a], [a, b]).round(2).tolist()
(2, 1, (1.0, 0.0, 3.0, 1.0), [[1.0, 0.33]])

Every RLE here has been through `to_rle`, which checks what comes from files before pycocotools' C code sees it; once
is enough, and takes longer than the counting.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as coco

from segzero.errors import UserError
from segzero.masks import RLE, Box, check_rle, decode, encode, union


def to_rle(mask: ArrayLike | RLE) -> RLE:
    """A mask [H, W], or its RLE, as an RLE that is safe to count."""
    return check_rle(mask) if isinstance(mask, dict) else encode(mask)


def area(mask: RLE) -> int:
    """How many pixels are inside."""
    return int(coco.area(mask))


def shared(*masks: RLE) -> int:
    """How many pixels are inside all of these masks of one size."""
    return area(coco.merge(list(masks), intersect=True))


def together(masks: Sequence[RLE], size: tuple[int, int]) -> RLE:
    """Everything that is inside any of the masks of that (width, height)."""
    width, height = size
    for mask in masks:
        if mask["size"] != [height, width]:
            raise UserError(f"a mask of {mask['size'][1]}x{mask['size'][0]} pixels for an image of {width}x{height}")
    if len(masks) == 1:
        return masks[0]
    return coco.merge(list(masks)) if masks else union([], size)


def without(mask: RLE, ignore: RLE) -> RLE:
    """The mask less the ignored pixels."""
    return encode(decode(mask) & ~decode(ignore)) if shared(mask, ignore) else mask


def mask_box(mask: RLE) -> Box | None:
    """The tightest box x0, y0, x1, y1 whose edges stand behind the last pixels; None for an empty mask."""
    x, y, width, height = coco.toBbox(mask).tolist()
    return (x, y, x + width, y + height) if width and height else None


def iou_table(predicted: Sequence[RLE], true: Sequence[RLE]) -> NDArray[np.float64]:
    """IoU of every predicted mask with every true one, [P, T]."""
    if not predicted or not true:
        return np.zeros((len(predicted), len(true)))
    return np.asarray(coco.iou(list(predicted), list(true), [False] * len(true)), dtype=np.float64)

"""Prompts for the segmenter from a person's clicks, with the earlier mask of a region that they correct.

>>> correction(region, points=[(420, 300)], labels=[0], box=None, grid=(256, 256)).labels         # doctest: +SKIP
(1, 0)
"""

from collections.abc import Sequence

import numpy as np

from segzero.dialogue.registry import Region
from segzero.errors import UserError
from segzero.masks import Box, Mask, Point, decode
from segzero.segmenter import MaskPrompt
from segzero.segmenter.protocol import as_logits

MAX_POINTS = 1000  # of one region


def correction(
    region: Region, points: Sequence[Point], labels: Sequence[int], box: Box | None, grid: tuple[int, int]
) -> MaskPrompt:
    """Combine a region's points with new ones, a box and the earlier mask, as logits of the grid (height, width).

    A new box rules: points inside the object but outside the box are dropped, and so is the mask beyond it. Without
    a new one the region's own box stays, until a point inside the object lies outside the box.
    """
    if not len(points) and box is None:
        raise UserError(f"nothing to correct instance {region.id} by: give points, a box or both")
    if len(region.points) + len(points) > MAX_POINTS:
        raise UserError(f"instance {region.id} has {len(region.points)} points; it can have {MAX_POINTS}")
    earlier = list(zip(region.points, region.labels, strict=True))
    new = _labelled(points, labels)
    mask = decode(region.rle)
    if box is not None:
        earlier = [(point, label) for point, label in earlier if not label or _holds(box, point)]
        mask = mask & _box_pixels(box, mask.shape)
    elif all(_holds(region.box, point) for point, label in [*earlier, *new] if label):
        box = region.box
    every = [*earlier, *new]
    return MaskPrompt(
        box,
        tuple(point for point, _ in every),
        tuple(label for _, label in every),
        as_logits(mask, grid) if mask.any() else None,
    )


def new_region(points: Sequence[Point], labels: Sequence[int], box: Box | None) -> MaskPrompt:
    """Make the prompt for a region that is not in the dialogue yet."""
    if not len(points) and box is None:
        raise UserError("nothing to draw from: give points, a box or both")
    if len(points) > MAX_POINTS:
        raise UserError(f"{len(points)} points; an instance can have {MAX_POINTS}")
    new = _labelled(points, labels)
    if box is None and not any(label for _, label in new):
        raise UserError("all points are outside; give one inside, or a box")
    return MaskPrompt(box, tuple(point for point, _ in new), tuple(label for _, label in new))


def _labelled(points: Sequence[Point], labels: Sequence[int]) -> list[tuple[Point, int]]:
    """Pair each point with its label; without labels all points are inside."""
    if len(labels) not in (0, len(points)):
        raise UserError(f"{len(points)} points but {len(labels)} labels; give one for each, or none")
    labels = labels or [1] * len(points)
    return [((float(x), float(y)), int(label)) for (x, y), label in zip(points, labels, strict=True)]


def _holds(box: Box, point: Point) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _box_pixels(box: Box, shape: tuple[int, ...]) -> Mask:
    """The pixels [H, W] whose centres lie in a box; none if the box has no area."""
    rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    inside_y, inside_x = (rows >= box[1]) & (rows <= box[3]), (columns >= box[0]) & (columns <= box[2])
    return inside_y[:, None] & inside_x[None, :]

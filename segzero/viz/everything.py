"""Pictures of all masks of an image: distinct colours, no numbers, the small masks above the large ones.

>>> draw_everything(image, found).save("everything.png")                                   # doctest: +SKIP
"""

import colorsys
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segzero.viz.overlay import READABLE, Color, Size, draw_mask, resize
from segzero.viz.panel import draw_titled

GOLDEN_RATIO = (5**0.5 - 1) / 2  # hues in such steps are spread evenly, however many there are
SHADES = (0.55, 0.68, 0.42)


class DrawableMask(Protocol):
    """A mask to draw, and its area."""

    @property
    def mask(self) -> NDArray[np.bool_]: ...  # [H, W], in the size of the image

    @property
    def area(self) -> int: ...


def draw_everything(image: Image.Image, found: Sequence[DrawableMask], size: Size | None = None) -> Image.Image:
    """Draw masks on a copy of the image, each in a colour of its own; small images are enlarged."""
    if size is None:
        times = max(1, math.ceil(READABLE / max(image.size)))
        size = image.width * times, image.height * times
    canvas = resize(image, size)
    pen = max(1.0, math.sqrt(size[0] * size[1]) / 450) * 0.7  # thinner lines than around a few instances
    for place, each in sorted(enumerate(found), key=lambda pair: -pair[1].area):
        draw_mask(canvas, each.mask, distinct_color(place), pen)
    return canvas


def draw_everything_panel(image: Image.Image, found: Sequence[DrawableMask]) -> Image.Image:
    """Draw a sheet with the image and, beside it, all masks; wide images lie one above the other."""
    count = "1 mask" if len(found) == 1 else f"{len(found)} masks"
    return draw_titled(f"Everything: {count}", image, lambda size: draw_everything(image, found, size))


def distinct_color(number: int) -> Color:
    """Colour of the mask with that number, counted from 0: hues far apart, in three shades."""
    rgb = colorsys.hls_to_rgb(number * GOLDEN_RATIO % 1, SHADES[number % 3], 0.85)
    red, green, blue = (round(255 * value) for value in rgb)
    return red, green, blue

"""Overlays: masks, boxes, points and numbers drawn on an image.

>>> draw_overlay(image, result.instances).save("overlay.png")           # doctest: +SKIP
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from segzero.viz.text import font_for

Color = tuple[int, int, int]  # red, green, blue
Size = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]  # x0, y0, x1, y1, pixels of the picture

# Colour-blind eyes can distinguish the first seven too (after Okabe and Ito); the most conspicuous come first.
PALETTE: list[Color] = [
    (255, 106, 19),  # orange
    (61, 178, 245),  # sky blue
    (245, 224, 48),  # yellow
    (0, 177, 131),  # green
    (224, 123, 181),  # pink
    (15, 111, 209),  # blue
    (214, 50, 31),  # red
    (155, 107, 255),  # violet
    (168, 224, 74),  # lime
    (77, 227, 220),  # cyan
]
DARK, LIGHT = (17, 20, 24), (255, 255, 255)
READABLE = 640  # least length of an overlay's longer side
MAX_DRAWN = 200  # more instances can't be distinguished; the others are not drawn


class Drawable(Protocol):
    """An object with a mask to draw: an instance of a result, or a true object of a sample."""

    @property
    def mask(self) -> NDArray[np.bool_]: ...  # [H, W], in the size of the image

    @property
    def box(self) -> Box: ...

    @property
    def points(self) -> Sequence[tuple[float, float]]: ...

    @property
    def score(self) -> float: ...  # expected IoU

    @property
    def number(self) -> int | None: ...  # number to show; None: its place in the list


def draw_overlay(
    image: Image.Image, instances: Sequence[Drawable], size: Size | None = None, boxes: bool = True
) -> Image.Image:
    """Draw instances on a copy of the image, with or without boxes; small ones are enlarged a whole number of times."""
    if size is None:
        times = max(1, math.ceil(READABLE / max(image.size)))
        size = image.width * times, image.height * times
    canvas = resize(image, size)
    scale = size[0] / image.width, size[1] / image.height
    pen = max(1.0, math.sqrt(size[0] * size[1]) / 450)  # line width, in which everything else is measured
    numbers = [instance.number or place for place, instance in enumerate(instances[:MAX_DRAWN], 1)]
    shown = [(instance, color_of(number - 1)) for number, instance in zip(numbers, instances, strict=False)]
    places = [_on_canvas(instance.box, scale, size) for instance, _ in shown]
    if boxes:
        for box, (_, color) in zip(places, shown, strict=True):  # under the masks, as contours tell more than boxes
            _draw_box(canvas, box, color, pen)
    for instance, color in shown:
        draw_mask(canvas, instance.mask, color, pen)
    taken: list[Box] = []  # places that labels should not cover
    for instance, color in shown:
        for x, y in instance.points:
            taken.append(_draw_point(canvas, ((x + 0.5) * scale[0], (y + 0.5) * scale[1]), color, pen))
    for number, box, (instance, color) in zip(numbers, places, shown, strict=True):
        if len(instances) > 1 or instance.number:
            _draw_label(canvas, str(number), box, color, pen, taken)
    return canvas


def color_of(number: int) -> Color:
    """Colour of the instance with that number, counted from 0."""
    return PALETTE[number % len(PALETTE)]


def resize(image: Image.Image, size: Size) -> Image.Image:
    """Make a smooth copy of an image at another size."""
    return image.copy() if size == image.size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2)


@lru_cache(maxsize=64)
def rounded(width: int, height: int, radius: float) -> Image.Image:
    """Mask of a rectangle with round corners; drawn at four times its size, as Pillow draws hard edges."""
    large = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(large).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 4 * radius, fill=255)
    return large.resize((width, height), Image.Resampling.BOX)


def _on_canvas(box: Box, scale: tuple[float, float], size: Size) -> Box:
    x0, x1 = (min(max(x * scale[0], 0), size[0]) for x in (box[0], box[2]))
    y0, y1 = (min(max(y * scale[1], 0), size[1]) for y in (box[1], box[3]))
    return x0, y0, x1, y1


def draw_mask(canvas: Image.Image, mask: NDArray[np.bool_], color: Color, pen: float) -> None:
    """Draw the fill and the contour of a mask [H, W], smooth at any enlargement.

    The contour is a level of the blurred mask: a blur of width `sigma` turns the distance d from a straight
    edge into the value Phi(d / sigma), so a table from values to opacities draws a line along the edge.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    height, width = mask.shape
    sx, sy = canvas.width / width, canvas.height / height
    sigma = min(max(0.8 * max(sx, sy), 1.4 * pen), 4 * pen)  # rounds off the steps of enlarged pixels
    margin = 4 * sigma
    # Only this part of the mask and of the canvas is processed: small objects cost little.
    left, top = max(0, int(columns[0] * sx - margin)), max(0, int(rows[0] * sy - margin))
    right = min(canvas.width, math.ceil((columns[-1] + 1) * sx + margin))
    bottom = min(canvas.height, math.ceil((rows[-1] + 1) * sy + margin))
    x0, y0, x1, y1 = int(left / sx), int(top / sy), math.ceil(right / sx), math.ceil(bottom / sy)
    part = Image.fromarray(mask[y0:y1, x0:x1].astype(np.uint8) * 255)
    edges = left / sx - x0, top / sy - y0, min(right / sx - x0, part.width), min(bottom / sy - y0, part.height)
    crisp = part.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=edges)
    field = crisp.filter(ImageFilter.GaussianBlur(sigma))
    for ink, opacity, inner, outer in (
        (color, 0.34, math.inf, 0.0),
        (DARK, 0.45, 0.9, -2.6),
        (LIGHT, 0.95, 0.9, -1.7),
        (color, 1.0, 0.9, -0.9),
    ):
        canvas.paste(ink, (left, top), field.point(_band(inner * pen, outer * pen, opacity, sigma)))


@lru_cache(maxsize=100)
def _band(inner: float, outer: float, opacity: float, sigma: float) -> list[int]:
    """Opacity, for each value of a blurred mask, of a band from `outer` to `inner`, distances from the mask's edge."""
    table = [0]
    for value in range(1, 255):
        distance = sigma * NormalDist().inv_cdf(value / 255)  # positive inside
        cover = min(max(distance - outer + 0.5, 0), 1) * min(max(inner - distance + 0.5, 0), 1)
        table.append(round(255 * opacity * cover))
    return [*table, round(255 * opacity) if inner == math.inf else 0]


def _draw_box(canvas: Image.Image, box: Box, color: Color, pen: float) -> None:
    """Draw the outline of a box with a dark edge around it."""
    x0, y0, x1, y1 = (round(v) for v in box)
    line, casing = math.ceil(pen), max(1, round(0.5 * pen))
    for ink, opacity, grow, width in ((DARK, 110, casing, line + 2 * casing), (color, 255, 0, line)):
        left, top, right, bottom = x0 - grow, y0 - grow, x1 + grow, y1 + grow
        for side in (
            (left, top, right, top + width),
            (left, bottom - width, right, bottom),
            (left, top + width, left + width, bottom - width),
            (right - width, top + width, right, bottom - width),
        ):
            if side[0] < side[2] and side[1] < side[3]:
                canvas.paste(ink, side, Image.new("L", (side[2] - side[0], side[3] - side[1]), opacity))


def _draw_point(canvas: Image.Image, center: tuple[float, float], color: Color, pen: float) -> Box:
    """Draw a ringed dot, and return the box that it covers."""
    x, y = round(center[0]), round(center[1])
    dot, light, dark = round(3.4 * pen), max(1, round(1.8 * pen)), max(1, round(0.7 * pen))
    for ink, radius in ((DARK, dot + light + dark), (LIGHT, dot + light), (color, dot)):
        canvas.paste(ink, (x - radius, y - radius), rounded(2 * radius, 2 * radius, radius))
    reach = dot + light + dark
    return x - reach, y - reach, x + reach, y + reach


def _draw_label(canvas: Image.Image, text: str, box: Box, color: Color, pen: float, taken: list[Box]) -> None:
    """Draw a numbered tag at a corner of the box; it avoids points and other tags where possible."""
    font = font_for(text, round(12 * pen))
    height = round(17 * pen)
    width = max(height, round(font.getlength(text) + 8 * pen))
    places: list[Box] = []
    for away in (0.0, 6 * pen):  # at the box, or for small boxes beside its point
        x0, y0, x1, y1 = box[0] - away, box[1] - away, box[2] + away, box[3] + away
        lefts, tops = (x0, x1 - width), (y0 - height, y1, y0)
        places += [(x, y, x + width, y + height) for y in tops for x in lefts]
    places = [p for p in places if min(p) >= 0 and p[2] <= canvas.width and p[3] <= canvas.height]
    free = [p for p in places if not any(_overlap(p, other) for other in taken)]
    clipped = (min(max(box[0], 0), canvas.width - width), min(max(box[1], 0), canvas.height - height), 0, 0)
    left, top = (round(v) for v in (free or places or [clipped])[0][:2])
    taken.append((left, top, left + width, top + height))
    edge = max(1, round(0.7 * pen))
    for ink, grow in ((DARK, edge), (color, 0)):
        canvas.paste(ink, (left - grow, top - grow), rounded(width + 2 * grow, height + 2 * grow, height / 4))
    ink = DARK if np.dot(color, (0.299, 0.587, 0.114)) > 120 else LIGHT
    ImageDraw.Draw(canvas).text((left + width / 2, top + height / 2), text, ink, font, anchor="mm")


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

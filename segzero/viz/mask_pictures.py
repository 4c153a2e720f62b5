"""Pictures of one mask or one map: tinted, on white, as heat, with a caption, in a grid.

>>> tinted(image, mask, GREEN).save("truth.png")                                  # doctest: +SKIP
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segzero.viz.overlay import PALETTE, Color
from segzero.viz.text import font_for, wrap

GREEN, RED, BLUE = PALETTE[3], PALETTE[6], PALETTE[5]
WHITE, DARK = (255, 255, 255), (17, 20, 24)
# Colours from cold to hot, evenly spaced.
HEAT = np.array([(0, 0, 128), (0, 90, 255), (0, 220, 220), (130, 250, 120), (255, 220, 0), (255, 80, 0), (128, 0, 0)])
FONT = 18


def tinted(image: Image.Image, mask: NDArray[np.bool_], color: Color, strength: float = 0.6) -> Image.Image:
    """Copy an image and tint the inside of a mask [H, W] of its size."""
    pixels = np.array(image.convert("RGB"), dtype=np.float32)
    pixels[mask] += strength * (np.array(color, dtype=np.float32) - pixels[mask])
    return Image.fromarray(pixels.round().astype(np.uint8))


def on_white(mask: NDArray[np.bool_], color: Color) -> Image.Image:
    """Draw a mask [H, W] in a colour on white."""
    return Image.fromarray(np.where(mask[..., None], color, WHITE).astype(np.uint8))


def grey(values: NDArray[np.floating]) -> Image.Image:
    """Draw a map [H, W] from black, its least value, to white, its greatest."""
    return Image.fromarray((_stretched(values) * 255).astype(np.uint8))


def heated(image: Image.Image, values: NDArray[np.floating], strength: float = 0.6) -> Image.Image:
    """Copy an image and lay a map [H, W] of its size over it, from blue to red."""
    places = _stretched(values) * (len(HEAT) - 1)
    steps = np.arange(len(HEAT))
    colors = np.stack([np.interp(places, steps, HEAT[:, channel]) for channel in range(3)], axis=-1)
    return Image.blend(image.convert("RGB"), Image.fromarray(colors.round().astype(np.uint8)), strength)


def captioned(image: Image.Image, text: str) -> Image.Image:
    """Copy an image and write at most two lines over its top."""
    picture = image.copy()
    font = font_for(text, FONT)
    lines = wrap(text, font, picture.width - 12, max_lines=2)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, picture.width, round(1.35 * FONT * len(lines)) + 8), fill=DARK)
    for number, line in enumerate(lines):
        draw.text((6, 4 + round(1.35 * FONT * number)), line, fill=WHITE, font=font)
    return picture


def grid(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Join pictures in rows, one below the other."""
    width = max(sum(picture.width for picture in row) for row in rows)
    heights = [max(picture.height for picture in row) for row in rows]
    sheet = Image.new("RGB", (width, sum(heights)), DARK)
    for number, row in enumerate(rows):
        x = 0
        for picture in row:
            sheet.paste(picture, (x, sum(heights[:number])))
            x += picture.width
    return sheet


def _stretched(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """A map with values from 0 to 1."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / max(high - low, 1e-6)

"""Pictures that the model is shown: an image with one mask lit, and an image with numbered masks."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from segzero.data.engine.records import AcceptedRegion, Box
from segzero.frames import Frame
from segzero.masks import Mask, decode
from segzero.result import InstanceMask
from segzero.viz.overlay import draw_overlay

DIMMED = 0.3  # brightness outside of a mask
GREEN = (40, 220, 60)


def shown(image: Image.Image, longest: int, frame: Frame) -> Image.Image:
    """An image as the model sees it: at most so long, and of a size that the frame fits."""
    scale = min(1.0, longest / max(image.size))
    small = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return frame.fit(image if small == image.size else image.resize(small, Image.Resampling.LANCZOS))


def lit(image: Image.Image, mask: Mask, box: Box | None = None) -> Image.Image:
    """A copy of an image that is dark outside of a mask [H, W], with a green frame around the box if there is one."""
    pixels = np.array(image.convert("RGB"))
    pixels[~mask] = (pixels[~mask] * DIMMED).astype(np.uint8)
    picture = Image.fromarray(pixels)
    if box is not None:
        wide = max(1, round(max(image.size) / 300))
        x0, y0, x1, y1 = box
        frame = (max(x0 - 2 * wide, 0), max(y0 - 2 * wide, 0), x1 + 2 * wide - 1, y1 + 2 * wide - 1)
        ImageDraw.Draw(picture).rectangle(frame, outline=GREEN, width=wide)
    return picture


def numbered(image: Image.Image, regions: Sequence[AcceptedRegion]) -> Image.Image:
    """A copy of an image with the accepted regions in colours and numbers from 1."""
    drawn = [InstanceMask(decode(one.rle), one.box, number=one.index + 1) for one in regions]
    return draw_overlay(image, drawn, boxes=False)

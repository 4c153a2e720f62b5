"""The picture in which a policy sees a mask: its image, with the mask outlined and everything else darkened.

The drawing takes the place of the image, so that a look at a mask costs no more visual tokens than the question itself.
Colours inside the mask stay what they are, since questions are about them.

>>> picture = mark(image, mask, policy.frame)                                                   # doctest: +SKIP
"""

import math

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation

from segzero.frames import Frame
from segzero.masks import Mask

OUTLINE = (255, 0, 255)
LIGHT = 0.45  # brightness outside the mask
WIDTH = 1 / 130  # of the outline, in sides of a square as large as the picture


def mark(image: Image.Image, mask: Mask, frame: Frame) -> Image.Image:
    """Draw a mask [H, W] of the image at the size at which the policy sees it."""
    picture = frame.fit(image.convert("RGB"))
    cover = Image.fromarray(mask.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.BOX)
    inside = np.asarray(cover) > 127  # [h, w]
    width = max(1, round(WIDTH * math.sqrt(picture.width * picture.height)))
    outline = binary_dilation(inside, np.ones((3, 3)), iterations=width) & ~inside
    pixels = np.asarray(picture)
    drawn = np.where(inside[..., None], pixels, (pixels * LIGHT).astype(np.uint8))
    drawn[outline] = OUTLINE
    return Image.fromarray(drawn)

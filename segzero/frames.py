"""Coordinate frames: conversion between pixels of the original image and the numbers that a policy writes.

A frame defines three things: the size at which the policy sees the image (`fit`), the number that a pixel becomes
(`to_frame`), and the pixel that a number means (`to_pixels`).

| frame | the policy sees | the policy writes |
|---|---|---|
| `stretch(840)` | 840 x 840, aspect lost | pixels of that square (Seg-Zero, VisionReasoner checkpoints) |
| `native(...)` | Qwen's smart resize, aspect kept | pixels of the resized image (Qwen2.5-VL) |
| `relative(1000)` | Qwen's smart resize, aspect kept | 0 to 1000 along each side (Qwen2-VL, Qwen3-VL) |

>>> frame = native(min_pixels=3136, max_pixels=1_003_520)
>>> frame.model_size((640, 480))
(644, 476)
>>> frame.to_frame([320, 240], (640, 480))
[322, 238]
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from segzero.errors import UserError

Size = tuple[int, int]  # width, height
MAX_ASPECT = 200  # beyond it Qwen's processors refuse an image
MAX_PASSES = 10  # passes of smart resize until the size is stable: usually one, seven at most so far


@dataclass(frozen=True)
class Frame:
    """A way of writing coordinates. Make it with `stretch`, `native`, `relative` or `frame_for`."""

    kind: Literal["stretch", "native", "relative"]
    side: int = 0  # stretch: side of the square; relative: the number that means a full side
    factor: int = 28  # sizes are multiples of it: patch size x spatial merge
    min_pixels: int = 56 * 56
    max_pixels: int = 12_845_056

    @property
    def most_pixels(self) -> int:
        """Number of pixels of the largest image that the policy sees."""
        return self.side**2 if self.kind == "stretch" else self.max_pixels

    def model_size(self, size: Size) -> Size:
        """Width and height at which the policy sees an image of that size."""
        if self.kind == "stretch":
            return self.side, self.side
        return settled_size(size, self.factor, self.min_pixels, self.max_pixels)

    def fit(self, image: Image.Image) -> Image.Image:
        """Resize an image to the size that the policy sees; a processor's own smart resize then changes nothing."""
        size = self.model_size(image.size)
        if size == image.size:
            return image
        # The published scripts stretch with bilinear; Qwen's processors resize with bicubic.
        method = Image.Resampling.BILINEAR if self.kind == "stretch" else Image.Resampling.BICUBIC
        return image.resize(size, method)

    def extent(self, size: Size) -> Size:
        """Largest x and y that can be written for an image of that size."""
        return (self.side, self.side) if self.kind == "relative" else self.model_size(size)

    def to_frame(self, xy: Sequence[float], size: Size) -> list[int]:
        """Convert pixels x, y, x, y, ... of the original image into the policy's integers, rounded half up."""
        extent = self.extent(size)
        scaled = (v * extent[i % 2] / size[i % 2] for i, v in enumerate(xy))
        return [min(max(math.floor(v + 0.5), 0), extent[i % 2]) for i, v in enumerate(scaled)]

    def to_pixels(self, xy: Sequence[float], size: Size) -> list[float]:
        """Convert a policy's numbers x, y, x, y, ... into pixels of the original image, not rounded and not clipped."""
        extent = self.extent(size)
        return [v * size[i % 2] / extent[i % 2] for i, v in enumerate(xy)]

    def __str__(self) -> str:
        if self.kind == "native":
            return f"native({self.min_pixels},{self.max_pixels},{self.factor})"
        return f"{self.kind}({self.side})"


def stretch(side: int = 840) -> Frame:
    """Frame in which every image becomes a square of that side, whatever its shape."""
    return Frame("stretch", side=_positive(side, "stretch"))


def native(min_pixels: int = 56 * 56, max_pixels: int = 12_845_056, factor: int = 28) -> Frame:
    """Frame of absolute pixels after Qwen's smart resize; the three numbers are those of the checkpoint's processor."""
    if not 0 < min_pixels <= max_pixels:
        raise UserError(f"native frame: min_pixels {min_pixels} must be above 0 and at most max_pixels {max_pixels}")
    return Frame("native", factor=_positive(factor, "native"), min_pixels=min_pixels, max_pixels=max_pixels)


def relative(side: int = 1000, min_pixels: int = 56 * 56, max_pixels: int = 12_845_056, factor: int = 28) -> Frame:
    """Frame of 0 to `side` along both axes; the image itself is resized as in `native`."""
    frame = native(min_pixels, max_pixels, factor)
    return Frame("relative", _positive(side, "relative"), frame.factor, frame.min_pixels, frame.max_pixels)


def clip_box(box: Sequence[float], size: Size) -> tuple[float, float, float, float]:
    """Box x0, y0, x1, y1 cut to an image of that (width, height).

    >>> clip_box((-5, 2, 700, 30), (640, 480))
    (0.0, 2.0, 640.0, 30.0)
    """
    x0, y0, x1, y1 = (min(max(float(v), 0.0), float(size[i % 2])) for i, v in enumerate(box))
    return x0, y0, x1, y1


def clip_point(point: Sequence[float], size: Size) -> tuple[float, float]:
    """Point x, y, a pixel's place, moved into an image of that (width, height): at most the last pixel's."""
    x, y = (min(max(float(v), 0.0), float(side - 1)) for v, side in zip(point, size, strict=True))
    return x, y


FAMILY_FRAMES = {"qwen2_vl": "relative", "qwen2_5_vl": "native", "qwen3_vl": "relative"}


def frame_for(family: str, min_pixels: int, max_pixels: int, factor: int) -> Frame:
    """Frame that a model family was trained with, by its `model_type` and its processor's limits.

    >>> str(frame_for("qwen3_vl", 3136, 1_003_520, 32))
    'relative(1000)'
    """
    kind = FAMILY_FRAMES.get(family)
    if kind is None:
        known = ", ".join(FAMILY_FRAMES)
        raise UserError(f"no coordinate frame is known for model type {family!r} (known: {known}); pass frame=...")
    if kind == "native":
        return native(min_pixels, max_pixels, factor)
    return relative(1000, min_pixels, max_pixels, factor)


def parse_frame(text: str, default: Frame) -> Frame:
    """Parse `stretch(840)`, `native`, `native(min,max)` or `relative(1000)`; limits not given are the default's.

    >>> parse_frame("relative(1000)", native(factor=32)).factor
    32
    """
    name, _, rest = text.strip().removesuffix(")").partition("(")
    try:
        numbers = [int(n) for n in rest.split(",") if n.strip()]
        if name == "stretch" and len(numbers) <= 1:
            return stretch(*numbers)
        if name == "native" and len(numbers) <= 3:
            limits = [default.min_pixels, default.max_pixels, default.factor]
            return native(*numbers, *limits[len(numbers) :])
        if name == "relative" and len(numbers) <= 1:
            return relative(numbers[0] if numbers else 1000, default.min_pixels, default.max_pixels, default.factor)
    except ValueError as error:
        if isinstance(error, UserError):
            raise
    known = "stretch(840), native, native(min_pixels,max_pixels) or relative(1000)"
    raise UserError(f"unknown frame {text!r}; write {known}")


def settled_size(size: Size, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """Size at which Qwen's smart resize becomes stable.

    A processor resizes the fitted image once more. For long thin images and narrow limits that is not always a no-op:
    the policy would then see another size than the one in which its numbers are read.
    """
    limits = (factor, min_pixels, max_pixels)
    fitted = smart_size(size, *limits)
    for _ in range(MAX_PASSES):
        if max(fitted) > MAX_ASPECT * min(fitted):
            raise _too_long(size)
        before, fitted = fitted, smart_size(fitted, *limits)
        if fitted == before:
            return fitted
    few = f"no sides that are multiples of {factor} give {min_pixels} to {max_pixels} pixels"
    raise UserError(f"image of {size[0]}x{size[1]}: {few}; widen the frame's limits")


def smart_size(size: Size, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """Size after one pass of Qwen's smart resize: sides are multiples of `factor`, the area within its limits."""
    width, height = size
    if max(size) > MAX_ASPECT * min(size):
        raise _too_long(size)
    # Python's round is banker's rounding, and so is the processors'.
    new_w, new_h = round(width / factor) * factor, round(height / factor) * factor
    if new_w * new_h > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        new_w = max(factor, math.floor(width / shrink / factor) * factor)
        new_h = max(factor, math.floor(height / shrink / factor) * factor)
    elif new_w * new_h < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        new_w = math.ceil(width * grow / factor) * factor
        new_h = math.ceil(height * grow / factor) * factor
    return new_w, new_h


def _too_long(size: Size) -> UserError:
    width, height = size
    return UserError(f"image of {width}x{height}: once fitted, one side is over {MAX_ASPECT} times the other; crop it")


def _positive(value: int, where: str) -> int:
    if value <= 0:
        raise UserError(f"{where} frame: {value} must be above 0")
    return value

"""Image and mask files that a record names: they must be in their folder, and are checked before they are decoded."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segzero.errors import UserError
from segzero.frames import Size
from segzero.images import orientation, read_file, read_header
from segzero.masks import Mask

T = TypeVar("T")
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def existing_folder(path: str | Path, what: str) -> Path:
    """Check that a folder exists; `what` names it in the error message."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{what}: no such folder: {path}; check the path")
    return path


def image_folder(file: Path, images: str | Path = "") -> Path:
    """Find the folder of a file's images: `images`, or images/ beside the file, or the file's own folder."""
    if images:
        return existing_folder(images, f"the images of {file.name}")
    beside = file.parent / "images"
    return beside if beside.is_dir() else file.parent


def inside(root: Path, name: str) -> Path:
    """Find the file of that name below `root`; a name that leads out of `root` is refused.

    Links are followed, because they are the owner's own, and image folders often link to a larger disk.
    """
    if "\0" in name or not name.strip():
        raise UserError(f"{name[:40]!r} is not a file name")
    base = os.path.abspath(root)  # noqa: PTH100 - unlike resolve(), it follows no links
    path = Path(os.path.normpath(os.path.join(base, name)))  # noqa: PTH118
    if not path.is_relative_to(base):
        raise UserError(f"{name[:200]!r} lies outside {root}; only files in that folder are read")
    try:
        there = path.is_file()
    except OSError as error:
        raise UserError(f"{name[:200]!r}: {error.strerror or error}") from error
    if not there:
        raise UserError(f"there is no file {name[:200]!r} in {root}")
    return path


def image_size(source: Path | bytes) -> Size:
    """Read the width and height of an image as it is displayed, from its header alone."""

    def size(image: Image.Image) -> Size:
        turned = orientation(image) in SIDEWAYS
        return (image.height, image.width) if turned else image.size

    return _with_image(source, size, whole=False)


def read_mask(source: Path | bytes, size: Size, binary: bool = False) -> Mask:
    """Read a mask from an image file of that size: pixels that are not black (and not transparent) are inside.

    A `binary` mask with other values than 0 and 1 or 255 is refused: it may hold classes, or blurred edges.
    """

    def pixels(image: Image.Image) -> Mask:
        _check_size(image, source, size)
        if image.format == "JPEG":
            raise UserError(f"{_name(source)} is a JPEG, whose edges are blurred; save masks as PNG")
        if image.mode == "P" or image.has_transparency_data:
            colours = np.asarray(image.convert("RGBA"))  # [H, W, 4]
            check(colours[..., :3])
            return colours[..., :3].any(axis=2) & (colours[..., 3] > 0)
        array = np.asarray(image)
        check(array)
        inside = array != 0
        return inside if inside.ndim == 2 else inside.any(axis=2)

    def check(values: NDArray[Any]) -> None:
        if binary and len(other := np.setdiff1d(values, (0, 1, 255))):
            raise UserError(f"{_name(source)} holds the value {other[0]}; a mask has 0 and 1, or 0 and 255")

    return _with_image(source, pixels)


def read_values(source: Path | bytes, size: Size) -> NDArray[np.integer]:
    """Read the stored number of each pixel, such as a class, from an image file of that size, [H, W]."""

    def values(image: Image.Image) -> NDArray[np.integer]:
        _check_size(image, source, size)
        array = np.asarray(image)
        if array.ndim != 2 or array.dtype.kind not in "iu":
            raise UserError(f"{_name(source)} must hold one number per pixel; its mode is {image.mode}")
        return array

    return _with_image(source, values)


def _check_size(image: Image.Image, source: Path | bytes, size: Size) -> None:
    if image.size != size:
        actual, expected = (f"{width}x{height}" for width, height in (image.size, size))
        raise UserError(f"{_name(source)} is {actual}, the image it belongs to {expected}")


def _with_image(source: Path | bytes, action: Callable[[Image.Image], T], whole: bool = True) -> T:
    """Open an image and apply `action` to it, or to its header if not `whole`."""
    name = _name(source)
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            return (read_file if whole else read_header)(file, name, action)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from error


def _name(source: Path | bytes) -> str:
    return f"its image ({len(source)} bytes)" if isinstance(source, bytes) else source.name

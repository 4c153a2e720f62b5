"""Images and masks that a file names: inside their folder, there, and looked at before they are decoded."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

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
    """The folder, which must be there."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{what}: no such folder: {path}; check the path")
    return path


def image_folder(file: Path, images: str | Path = "") -> Path:
    """Where the images are that a file names: `images`, else images/ beside the file, else the file's own folder."""
    if images:
        return existing_folder(images, f"the images of {file.name}")
    beside = file.parent / "images"
    return beside if beside.is_dir() else file.parent


def inside(root: Path, name: str) -> Path:
    """The file of that name below `root`, which must be there; a name that leads out of `root` is refused.

    Links are followed: they are the owner's own, and image folders often are links to a larger disk.
    """
    if "\0" in name or not name.strip():
        raise UserError(f"{name[:40]!r} is no file name")
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
    """Width and height of an image as it is shown; only its header is read."""

    def size(image: Image.Image) -> Size:
        turned = orientation(image) in SIDEWAYS
        return (image.height, image.width) if turned else image.size

    return _with_image(source, size, whole=False)


def read_mask(source: Path | bytes, size: Size) -> Mask:
    """A mask from an image file of that size: all that is not black (and not transparent) is inside."""

    def pixels(image: Image.Image) -> Mask:
        _check_size(image, source, size)
        if image.format == "JPEG":
            raise UserError(f"{_name(source)} is a JPEG, whose edges are blurred; save masks as PNG")
        if image.mode == "P" or image.has_transparency_data:
            colours = np.asarray(image.convert("RGBA"))  # [H, W, 4]
            return colours[..., :3].any(axis=2) & (colours[..., 3] > 0)
        array = np.asarray(image) != 0
        return array if array.ndim == 2 else array.any(axis=2)

    return _with_image(source, pixels)


def read_values(source: Path | bytes, size: Size) -> NDArray[np.integer]:
    """The numbers that the pixels of an image file of that size are stored as, such as classes, [H, W]."""

    def values(image: Image.Image) -> NDArray[np.integer]:
        _check_size(image, source, size)
        array = np.asarray(image)
        if array.ndim != 2 or array.dtype.kind not in "iu":
            raise UserError(f"{_name(source)} must hold one number a pixel; its mode is {image.mode}")
        return array

    return _with_image(source, values)


def _check_size(image: Image.Image, source: Path | bytes, size: Size) -> None:
    if image.size != size:
        ours, theirs = (f"{width}x{height}" for width, height in (image.size, size))
        raise UserError(f"{_name(source)} is {ours}, the image it belongs to {theirs}")


def _with_image(source: Path | bytes, action: Callable[[Image.Image], T], whole: bool = True) -> T:
    """What becomes of an opened image; not `whole`: of its header alone."""
    name = _name(source)
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            return (read_file if whole else read_header)(file, name, action)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from error


def _name(source: Path | bytes) -> str:
    return f"its image ({len(source)} bytes)" if isinstance(source, bytes) else source.name

"""Images from files of any origin: an upright RGB image, or one clear line that says why not.

>>> image = load_image("cat.jpg")                        # doctest: +SKIP
>>> image.mode, image.size                                # doctest: +SKIP
('RGB', (640, 480))
"""

import base64
import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from segzero.errors import UserError, one_line
from segzero.image_structure import (
    MAX_EXIF,
    MAX_PIXELS,
    check_body,
    check_header,
    is_cheap_exif,
    orientation_after_pixels,
)

Opened = TypeVar("Opened", bound=Image.Image)
T = TypeVar("T")
BLOCK = 1 << 18  # pixels converted at a time: the memory needed beside the result stays small, and in the CPU's cache
FEED = 1 << 22  # bytes given to libjpeg at a time; what it can't use yet is copied once per further piece
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class FirstFrame(WebPImageFile):
    """A WebP file of which only the first frame is decoded.

    libwebp keeps two canvases, of 4 bytes per pixel each; they are freed before the pixels are converted.
    """

    def load(self) -> Any:
        if self._decoder is not None:
            data, *_ = self._get_next()
            self._decoder = self.fp = None
            self.im = Image.frombytes(self.mode, self.size, data, "raw", self.rawmode).im
        return Image.Image.load(self)


# First bytes of a file -> its reader. The list is short, as every further reader is an entry for hostile files.
READERS: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"GIF8": GifImageFile,
    b"BM": BmpImageFile,
    b"RIFF": FirstFrame,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
    b"II+\0": TiffImageFile,
    b"MM\0+": TiffImageFile,
}

NUMBERS = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # modes of more than 8 bits
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {  # its value -> the operation that turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def media_type(file: bytes) -> str:
    """Media type of a file that `load_image` reads.

    >>> media_type(b"GIF89a...")
    'image/gif'
    """
    reader = next(reader for begin, reader in READERS.items() if file.startswith(begin))
    return Image.MIME[str(reader.format)]


def load_image(
    source: str | Path | bytes | Image.Image, max_pixels: int = MAX_PIXELS, name: str | None = None
) -> Image.Image:
    """Load an image as RGB, 8 bits per channel, turned upright as its EXIF says; errors call it `name`.

    Transparent parts become white, an animation gives its first frame, 16-bit grey is scaled. Width and height are
    checked before any pixel is decoded; a PIL image that is in memory already has no limit.
    """
    if isinstance(source, Image.Image):
        return _read(lambda: source, max_pixels, name or "the image", _to_rgb)
    if isinstance(source, bytes):
        return read_file(io.BytesIO(source), name or f"the image ({len(source)} bytes)", _to_rgb, max_pixels)
    if not isinstance(source, str | Path):
        raise UserError(f"an image must be a path, bytes or a PIL image, not {type(source).__name__}")
    path, name = Path(source), name or str(source)
    try:
        if path.is_dir():
            raise UserError(f"{name} is a folder, not an image")
        if not path.exists():
            raise UserError(f"no such image: {name}; check the path")
        if not path.is_file():  # a pipe might never end
            raise UserError(f"{name} is not a regular file")
        with path.open("rb") as file:
            return read_file(file, name, _to_rgb, max_pixels)
    except OSError as error:
        raise UserError(f"cannot open {name}: {error.strerror or error}") from error


def measure_image(file: bytes, max_pixels: int = MAX_PIXELS, name: str | None = None) -> tuple[int, int]:
    """Read width and height from a file's header, not turned; files that `load_image` refuses are refused."""
    return read_file(io.BytesIO(file), name or f"the image ({len(file)} bytes)", lambda image: image.size, max_pixels)


def find_images(pattern: str | Path) -> list[Path]:
    """Find the image files that a file, a folder (without subfolders) or a glob stands for, sorted.

    >>> find_images("photos/2024-*/*.jpg")                   # doctest: +SKIP
    [PosixPath('photos/2024-05/a.jpg'), PosixPath('photos/2024-06/b.jpg')]
    """
    path = Path(pattern)
    try:
        if path.is_dir():
            files, place = path.iterdir(), "in the folder"
        elif path.exists():
            return [path]
        elif any(c in str(pattern) for c in "*?["):
            files, place = Path(path.anchor).glob(str(path.relative_to(path.anchor))), "among the files that match"
        else:
            raise UserError(f"no such image, folder or pattern: {pattern}; check the path")
        images = sorted(p for p in files if _named_as_image(p) and p.is_file())
    except OSError as error:
        raise UserError(f"cannot look into {pattern}: {error.strerror or error}") from error
    if not images:
        raise UserError(f"no images {place} {pattern}; their names must end in {', '.join(SUFFIXES)}")
    return images


def _named_as_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_file(file: BinaryIO, name: str, finish: Callable[[ImageFile.ImageFile], T], max_pixels: int = MAX_PIXELS) -> T:
    """Open an image whose pixels are about to be decoded, check its structure, and return `finish(image)`."""

    def finish_checked(image: ImageFile.ImageFile) -> T:
        place = file.tell()
        check_body(file, str(image.format), image.width * image.height, name)
        file.seek(place)
        return finish(image)

    return read_header(file, name, finish_checked, max_pixels)


def read_header(
    file: BinaryIO, name: str, finish: Callable[[ImageFile.ImageFile], T], max_pixels: int = MAX_PIXELS
) -> T:
    """Open an image by its header alone, and return `finish(image)`, which must not decode the pixels."""
    return _read(lambda: _open(file, name), max_pixels, name, finish)


def _open(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    start = file.read(8)
    if not start:
        raise UserError(f"{name} is empty (0 bytes)")
    reader = next((reader for magic, reader in READERS.items() if start.startswith(magic)), None)
    if reader is None:
        raise UserError(f"{name} is not an image that can be read here; use JPEG, PNG, WEBP, BMP, GIF or TIFF")
    check_header(file, str(reader.format), name)
    file.seek(0)
    image = reader(file)
    image.decodermaxblock = FEED if reader is JpegImageFile else image.decodermaxblock
    return image


def _read(opened: Callable[[], Opened], max_pixels: int, name: str, finish: Callable[[Opened], T]) -> T:
    """Open an image, check its size and finish it; all errors become one line."""
    with _pillow_limit(max_pixels):
        try:
            image = opened()
            _check_size(image, max_pixels, name)
            return finish(image)
        except UserError:
            raise
        except Image.DecompressionBombError as error:
            raise UserError(f"{name} has more than {max_pixels} pixels; shrink it, or raise max_pixels") from error
        except Exception as error:  # Pillow's readers raise nearly everything on hostile bytes
            reason = one_line(error)
            raise UserError(f"{name} is damaged or cut off and cannot be read: {reason}") from error


def _check_size(image: Image.Image, max_pixels: int, name: str) -> None:
    width, height = image.size
    if not width or not height:
        raise UserError(f"{name} has no pixels: it is {width}x{height}")
    if isinstance(image, ImageFile.ImageFile) and width * height > max_pixels:
        megapixels = f"{width * height / 1e6:.3g} megapixels, more than the {max_pixels / 1e6:.3g} allowed"
        raise UserError(f"{name} is {width}x{height}: {megapixels}; shrink it, or raise max_pixels")


@contextmanager
def _pillow_limit(max_pixels: int) -> Iterator[None]:
    """Lift Pillow's own global limit of pixels for the context, if more than usual are allowed.

    Only one thread at a time does so.
    """
    if max_pixels <= MAX_PIXELS:
        yield
        return
    with _LIMIT_LOCK:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None if limit is None else max(limit, max_pixels)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


_LIMIT_LOCK = threading.Lock()


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    turn = UPRIGHT.get(orientation(image))
    if image.mode in NUMBERS or image.has_transparency_data:
        rgb = _converted(image)
    elif image.mode != "RGB":
        rgb = image.convert("RGB")
    else:
        rgb = image._new(image.im) if isinstance(image, ImageFile.ImageFile) else image
    if isinstance(image, ImageFile.ImageFile):
        rgb.info = {}  # nothing else of the file is kept
    if turn is not None:
        rgb = rgb.transpose(turn)
        rgb.info = {}  # its EXIF would turn the image a second time
    return rgb


def _converted(image: Image.Image) -> Image.Image:
    """Convert an image of numbers or with transparency to RGB, block by block: intermediate steps take much memory."""
    convert = _number_to_grey(image) if image.mode in ("I", "F") else _convert
    rgb = Image.new("RGB", image.size)
    for box in _blocks(*image.size):
        rgb.paste(convert(image.crop(box)), box)
    return rgb


def _blocks(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of at most BLOCK pixels each that cover an image."""
    across = min(width, BLOCK)
    down = BLOCK // across
    for y in range(0, height, down):
        for x in range(0, width, across):
            yield x, y, min(x + across, width), min(y + down, height)


def _convert(image: Image.Image) -> Image.Image:
    if image.mode in NUMBERS:  # Pillow's own conversion clips all above 255
        image = Image.fromarray((np.asarray(image, np.float32) * (255 / 65535) + 0.5).astype(np.uint8))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _number_to_grey(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Make a conversion that maps the darkest value to black and the brightest to white.

    Integers of 32 bits and floats have no standard white."""
    low, high = np.inf, -np.inf
    for box in _blocks(*image.size):
        values = np.asarray(image.crop(box))
        values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    scale = 255 / (high - low) if high > low else 0

    def stretch(block: Image.Image) -> Image.Image:
        values = np.asarray(block, np.float64)
        scaled = (np.where(np.isfinite(values), values, low) - low) * scale if high >= low else np.zeros(values.shape)
        return Image.fromarray((scaled + 0.5).astype(np.uint8))

    return stretch


def orientation(image: Image.Image) -> int:
    """Read the EXIF orientation, 1 to 8, without decoding the pixels of an image that is only opened."""
    try:
        block, text = image.info.get("exif"), image.info.get("Raw profile type exif", "")
        if not is_cheap_exif(block or b"") or len(text) > 2 * MAX_EXIF:
            return 1
        # A PNG's own getexif decodes all pixels, as the block may come after them.
        alone = isinstance(image, PngImageFile) and image.fp is not None and not orientation_after_pixels(image.fp)
        exif = Image.Image.getexif(image) if alone else image.getexif()
        value: int = exif.get(ORIENTATION, 1)
        return value
    except Exception:  # a damaged EXIF block is not a reason to refuse the image
        return 1


def image_key(image: str | bytes) -> str:
    """Key of a sample's image: its path, or a hash of the file's bytes. Samples about one image share it."""
    return image if isinstance(image, str) else hashlib.sha256(image).hexdigest()


def pixels_key(image: Image.Image) -> str:
    """Hash of mode, size and pixels; the same picture from another file has the same one."""
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


def data_url(png: bytes) -> str:
    """A PNG file as a data URL, for HTML and JSON."""
    return "data:image/png;base64," + base64.b64encode(png).decode()

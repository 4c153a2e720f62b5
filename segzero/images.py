"""Reading images: whatever a user's file holds, an upright RGB picture or one clear line that says why not.

>>> image = load_image("cat.jpg")                        # doctest: +SKIP
>>> image.mode, image.size
('RGB', (640, 480))
"""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from segzero.errors import UserError

T = TypeVar("T")
MAX_PIXELS = 89_000_000  # under Pillow's own limit, which then never has to be lifted
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

# What a file begins with -> who reads it. A short list, as every further reader is a door for hostile files.
READERS: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"GIF8": GifImageFile,
    b"BM": BmpImageFile,
    b"RIFF": WebPImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
    b"II+\0": TiffImageFile,
    b"MM\0+": TiffImageFile,
}

ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {  # its value -> what puts the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def kind_of(file: bytes) -> str:
    """The media type of a file that `load_image` reads.

    >>> kind_of(b"GIF89a...")
    'image/gif'
    """
    reader = next(reader for begin, reader in READERS.items() if file.startswith(begin))
    return Image.MIME[str(reader.format)]


def load_image(
    source: str | Path | bytes | Image.Image, max_pixels: int = MAX_PIXELS, name: str | None = None
) -> Image.Image:
    """An image as RGB, 8 bits a channel, turned upright as its EXIF says; `name` is what errors call it.

    Transparent parts become white, of an animation the first frame is taken, 16-bit grey is scaled. Width and
    height are checked before any pixel is decoded; a PIL image that is in memory already has no limit.
    """
    if isinstance(source, Image.Image):
        return _read(lambda: source, max_pixels, name or "the image", _to_rgb)
    if isinstance(source, bytes):
        return _read_file(io.BytesIO(source), max_pixels, name or f"the image ({len(source)} bytes)", _to_rgb)
    if not isinstance(source, str | Path):
        raise UserError(f"an image must be a path, bytes or a PIL image, not {type(source).__name__}")
    path, name = Path(source), name or str(source)
    try:
        if path.is_dir():
            raise UserError(f"{name} is a folder, not an image")
        if not path.exists():
            raise UserError(f"no such image: {name}; check the path")
        if not path.is_file():  # a pipe would be waited for without end
            raise UserError(f"{name} is not a regular file")
        with path.open("rb") as file:
            return _read_file(file, max_pixels, name, _to_rgb)
    except OSError as error:
        raise UserError(f"cannot open {name}: {error.strerror or error}") from error


def measure_image(file: bytes, max_pixels: int = MAX_PIXELS, name: str | None = None) -> tuple[int, int]:
    """Width and height by a file's header alone, not turned; it is refused for what `load_image` refuses it for."""
    return _read_file(io.BytesIO(file), max_pixels, name or f"the image ({len(file)} bytes)", lambda image: image.size)


def find_images(what: str | Path) -> list[Path]:
    """The image files that a file, a folder (its own files, not those below) or a glob stands for, sorted.

    >>> find_images("photos/2024-*/*.jpg")                   # doctest: +SKIP
    [PosixPath('photos/2024-05/a.jpg'), PosixPath('photos/2024-06/b.jpg')]
    """
    path = Path(what)
    try:
        if path.is_dir():
            found, place = path.iterdir(), "in the folder"
        elif path.exists():
            return [path]
        elif any(c in str(what) for c in "*?["):
            found, place = Path(path.anchor).glob(str(path.relative_to(path.anchor))), "among the files that match"
        else:
            raise UserError(f"no such image, folder or pattern: {what}; check the path")
        images = sorted(p for p in found if _named_as_image(p) and p.is_file())
    except OSError as error:
        raise UserError(f"cannot look into {what}: {error.strerror or error}") from error
    if not images:
        raise UserError(f"no images {place} {what}; their names must end in {', '.join(SUFFIXES)}")
    return images


def _named_as_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _read_file(file: BinaryIO, max_pixels: int, name: str, finish: Callable[[Image.Image], T]) -> T:
    start = file.read(8)
    if not start:
        raise UserError(f"{name} is empty (0 bytes)")
    reader = next((reader for magic, reader in READERS.items() if start.startswith(magic)), None)
    if reader is None:
        raise UserError(f"{name} is not an image that can be read here; use JPEG, PNG, WEBP, BMP, GIF or TIFF")
    file.seek(0)
    return _read(lambda: reader(file), max_pixels, name, finish)


def _read(read_header: Callable[[], Image.Image], max_pixels: int, name: str, finish: Callable[[Image.Image], T]) -> T:
    with _pillow_limit(max_pixels):
        try:
            image = read_header()
            _check_size(image, max_pixels, name)
            return finish(image)
        except UserError:
            raise
        except Image.DecompressionBombError as error:
            raise UserError(f"{name} has more than {max_pixels} pixels; shrink it, or raise max_pixels") from error
        except Exception as error:  # Pillow's readers raise nearly everything on hostile bytes
            reason = " ".join(str(error).split()) or type(error).__name__
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
    """Some of Pillow's readers keep a limit of their own, which is global.

    It is lifted only for those who ask for more than usual, one at a time, and put back.
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
    turn = UPRIGHT.get(_orientation(image))
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips all above 255
        image = Image.fromarray((np.asarray(image, np.float32) * (255 / 65535) + 0.5).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = _stretch(np.asarray(image, np.float64))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    if image.mode != "RGB":
        image = image.convert("RGB")
    if turn is not None:
        image = image.transpose(turn)
        image.info = {}  # it still holds the EXIF, and whoever reads it next would turn the picture again
    return image


def _stretch(values: np.ndarray) -> Image.Image:
    """Darkest to black, brightest to white: integers of 32 bits and floats have no agreed white."""
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0, 0)
    scaled = (np.where(finite, values, low) - low) * (255 / (high - low) if high > low else 0)
    return Image.fromarray((scaled + 0.5).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block is no reason to refuse the picture
        return 1


def pixels_key(image: Image.Image) -> str:
    """A name for the pixels, whatever file they came from."""
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()

"""Writing files so that whoever reads them finds them whole, and finding those that are shipped."""

import io
import secrets
from contextlib import suppress
from pathlib import Path

from PIL import Image

from segzero.errors import UserError


def write_atomically(path: Path, data: bytes) -> Path:
    """Write a file whole or not at all: under another name in the same folder first, then renamed."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; nothing was left half-written") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def png_bytes(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=3)  # a third of the time of the usual 6, for files a tenth larger
    return file.getvalue()


def config_dir() -> Path:
    """The folder of the shipped YAML files: beside the package in a clone, inside it when installed."""
    package = Path(__file__).parent
    for place in (package / "configs", package.parent / "configs"):
        if (place / "train.yaml").is_file():
            return place
    raise UserError(f"the configs are not where they belong, {package / 'configs'}; install segzero again")

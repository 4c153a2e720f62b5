"""Hostile bodies and files for the soak test: small to send or quick to make, and expensive to process.

>>> len(empty_lists(1000))
3002
"""

import base64
import io
import json
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 5000  # pixels: 25 megapixels, the server's own limit
PREFIX = b'--cut\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n\r\n'
SUFFIX = b'\r\n--cut\r\nContent-Disposition: form-data; name="question"\r\n\r\nthe largest shape\r\n--cut--\r\n'
MULTIPART, JSON = "multipart/form-data; boundary=cut", "application/json"


@dataclass(frozen=True)
class Sized:
    """Sizes of the bodies that can be of any size."""

    lists: int  # bytes of a body of empty lists
    counts: int  # bytes of the counts of a mask for a small image
    comment: int  # bytes of a GIF's comment, which takes twice that in the file
    runs: int  # bytes of a BMP's runs
    header: int  # bytes of one header line
    headers: int  # number of header lines


LARGE = Sized(30_000_000, 28_000_000, 15_000_000, 24_000_000, 100_000_000, 3_000_000)
SMALL = Sized(8_000_000, 8_000_000, 4_000_000, 6_000_000, 20_000_000, 600_000)


def question_about(image: bytes) -> bytes:
    """Build the multipart body of a question about a file."""
    return PREFIX + image + SUFFIX


def repeated_scans(count: int = 2700, side: int = SIDE) -> bytes:
    """Build a progressive JPEG of one colour whose last scan is repeated; each scan goes through all blocks."""
    file = io.BytesIO()
    Image.new("L", (side, side), 128).save(file, "jpeg", progressive=True, quality=50)
    data = file.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + count * scan + data[-2:]


def floats(side: int = SIDE) -> bytes:
    """Build a deflated TIFF of 32-bit floats, nearly all equal."""
    values = np.zeros((side, side), np.float32)
    values[::500] = 1
    file = io.BytesIO()
    Image.fromarray(values).save(file, "tiff", compression="tiff_adobe_deflate")
    return file.getvalue()


def runs_of_one(size: int, side: int = SIDE) -> bytes:
    """Build a run-length BMP in which each run is one pixel."""
    palette = bytes(1024)
    begin = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", begin + size, 0, 0, begin)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, size, 2835, 2835, 256, 0)
    return head + info + palette + size // 2 * b"\x01\x07"


def long_comment(size: int) -> bytes:
    """Build a GIF with a comment of that length in blocks of one byte."""
    file = io.BytesIO()
    Image.new("P", (64, 64)).save(file, "gif")
    data = file.getvalue()
    head = 13 + 3 * 2 ** ((data[10] & 7) + 1)  # after the header and its palette
    return data[:head] + b"\x21\xfe" + size * b"\x01A" + b"\0" + data[head:]


def empty_lists(size: int) -> bytes:
    """Build JSON of nothing but empty lists."""
    return b"[" + size // 3 * b"[]," + b"[]]"


def long_mask(size: int) -> bytes:
    """Build a prompt for an image of 16x16 whose earlier mask claims 16384x16384, with one run per byte."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(file, "png")
    rest = (1 << 28) - size - 1  # length of the last run, written in digits of five bits
    digits = []
    while rest > 15:
        digits.append(chr(48 + (rest & 31 | 32)))
        rest >>= 5
    digits.append(chr(48 + rest))
    mask = {"size": [16384, 16384], "counts": "111" + "0" * (size - 3) + "".join(digits)}
    image = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return json.dumps({"image": image, "prompts": [{"points": [[3, 3]], "mask": mask}]}).encode()


def noise(side: int) -> bytes:
    """Build a PNG that can't be compressed, so that answers with it are large."""
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=0)
    return file.getvalue()

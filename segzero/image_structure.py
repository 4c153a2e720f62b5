"""Checks of the structure of image files before decoding: a file that costs far more than its pixels is refused.

Width and height bound the cost of honest files. They do not bound how often a JPEG may paint the same pixels, how many
chunks, blocks or tags a file may have, or how large a single tile of a TIFF may be. Damage is left to the readers.

>>> check_header(io.BytesIO(b"BM" + bytes(28) + b"\\1\\0\\0\\0"), "BMP", "logo.bmp")
Traceback (most recent call last):
segzero.errors.UserError: logo.bmp is a run-length BMP; save it anew, as PNG
"""

import io
import math
import re
import struct
from collections.abc import Iterator
from typing import IO

from segzero.errors import UserError

MAX_PIXELS = 89_000_000  # of an image; below Pillow's own limit, which then never has to be lifted
MAX_SCANS = 100  # of a JPEG; usual progressive ones have about ten
SCANNED = 600_000_000  # pixels that all scans together may pass,
FEW_SCANS = 20  # unless there are only this many
MAX_SEGMENTS = 1000  # before a JPEG's first scan: a colour profile may take dozens
MAX_EXIF = 1 << 18  # bytes, in a JPEG
MAX_PROGRAMS = 1 << 24  # bytes of application segments before a JPEG's pixels
MAX_TABLE = 1 << 12  # bytes of any other segment
MAX_TILE_SEGMENTS = 30  # before the scan of a JPEG in a TIFF
MAX_GAP = 1 << 10  # empty bytes between two segments
MAX_JPEG = 1 << 28  # bytes of a JPEG whose scans have to be distinguished from thumbnails'
MAX_CHUNKS = 1 << 15  # of a PNG: 1,000 bytes each in 32 MB; usual are 8,192
MAX_ASIDES = 1000  # chunks without pixels
MAX_PACKED = 20  # of those, compressed ones, which may expand to a megabyte each
MAX_BLOCKS = 1 << 15  # before a GIF's first frame
MAX_FRAMES = 1 << 14  # frames and other chunks of a WebP
MAX_TAGS = 1000  # per directory in a TIFF or EXIF
MAX_VALUES = 1 << 18  # of all tags; a fraction counts as eight
MAX_TILES = 1 << 16  # tiles or strips
MAX_PADDING = 1 << 22  # pixels of tiles beyond four times the image: one tile of 2048x2048 for an icon

MARKER = re.compile(rb"\xff([\x01-\xfe])")
WITH_LENGTH = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
ALONE = {0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}  # markers that Pillow reads without a length
FRAMES = {*range(0xC0, 0xD0), 0xDE} - {0xC4, 0xC8, 0xCC}
BASELINE, ARITHMETIC, END, SCAN, EXIF, TEXT = (0xC0, 0xC1), range(0xC9, 0xD0), 0xD9, 0xDA, 0xE1, 0xFE
PROGRAMS = {*range(0xE0, 0xF0), TEXT}

PIXELS = (b"IDAT", b"fdAT")

GEOMETRY = (256, 257, 259, 278, 322, 323)  # width, height, compression, a strip's rows, a tile's width and height
COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946)  # none, fax, LZW, JPEG, deflate, PackBits
JPEG, OFFSETS = 7, (273, 324)  # compression; tags of the offsets of strips and tiles
DIRECTORIES = (34665, 34853, 40965)  # tags that point to further directories, which Pillow reads too
TYPES = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q"}  # of whole numbers
TOGETHER, FRACTIONS = (1, 2, 7), (5, 10)  # types whose values become one object, and types with an object per value


class _TooCostly(Exception):
    """A file is too costly to read; the message continues the sentence that its name begins."""


def check_header(file: IO[bytes], format: str, name: str) -> None:
    """Refuse a file whose header takes long to read; `format` is Pillow's name of it."""
    try:
        file.seek(0)
        CHECKS[format](file)
    except _TooCostly as problem:
        raise UserError(f"{name} {problem}; save it anew, as PNG") from None


def check_body(file: IO[bytes], format: str, pixels: int, name: str) -> None:
    """Refuse a file whose pixels take long to decode; its header has been checked."""
    try:
        if format == "JPEG":
            _jpeg_scans(file, max(FEW_SCANS, min(MAX_SCANS, SCANNED // pixels)))
    except _TooCostly as problem:
        raise UserError(f"{name} {problem}; save it anew, as PNG") from None


def orientation_after_pixels(file: IO[bytes]) -> bool:
    """True if a PNG may have its orientation after its pixels; its header has been checked."""
    seen = False
    for kind, place in _png_chunks(file):
        seen = seen or kind in PIXELS
        if seen and kind == b"eXIf":
            return True
        if seen and kind in (b"iTXt", b"tEXt", b"zTXt"):
            file.seek(place)
            if file.read(21).startswith((b"XML:com.adobe.xmp", b"Raw profile type exif")):
                return True
    return False


def is_cheap_exif(block: bytes) -> bool:
    """True if Pillow reads an EXIF block quickly."""
    try:
        _tiff_tags(io.BytesIO(re.sub(b"^(Exif\0\0){1,2}", b"", block)))
    except _TooCostly:
        return False
    return True


def _jpeg_segments(file: IO[bytes], place: int = 2, most: int = MAX_SEGMENTS) -> Iterator[tuple[int, int, bytes]]:
    """Marker, length and first bytes of each segment up to the first scan, as Pillow finds them."""
    for _ in range(most):
        file.seek(place)
        start = file.read(MAX_GAP)
        found = MARKER.search(start)
        if not found:
            if len(start) == MAX_GAP:
                raise _TooCostly("is a JPEG with a gap between its parts")
            return
        marker = found[1][0]
        place += found.end()
        if marker in ALONE:
            continue
        head = start[found.end() : found.end() + 16]
        if len(head) < 16:
            file.seek(place)
            head = file.read(16)
        length = max(2, int.from_bytes(head[:2]))
        yield marker, length, head[2:]
        if marker == SCAN:
            return
        place += length
    raise _TooCostly(f"is a JPEG of more than {most} parts before its pixels")


def _jpeg_header(file: IO[bytes]) -> None:
    """Bound the segments before the pixels."""
    exif = frames = programs = 0
    for marker, length, head in _jpeg_segments(file):
        frames += marker in FRAMES
        programs += length if marker in PROGRAMS else 0
        exif += length if marker == EXIF and head.startswith(b"Exif") else 0
        if marker in FRAMES and marker in ARITHMETIC:
            raise _TooCostly("is a JPEG with arithmetic coding, which few programs read")
        too_long = length > MAX_TABLE and marker not in PROGRAMS
        if too_long or frames > 1 or exif > MAX_EXIF or programs > MAX_PROGRAMS:
            raise _TooCostly("is a JPEG with more before its pixels than a picture needs")


def _jpeg_scans(file: IO[bytes], most: int) -> None:
    """Bound the scans: each passes all pixels, however short it is."""
    if _single_scan(file):
        return
    file.seek(0)
    seen, last = 0, b""
    while block := file.read(1 << 20):
        seen += (last + block).count(b"\xff\xda")
        last = block[-1:]
    if seen <= most:
        return
    # Some may be in thumbnails, or after the end of the image, where phones put films.
    file.seek(0)
    data = file.read(MAX_JPEG)
    place, scans = 2, 0
    for _ in range(MAX_SEGMENTS + 10 * most):
        found = WITH_LENGTH.search(data, place)
        if found is None or found[1][0] == END:
            return
        scans += found[1][0] == SCAN
        if scans > most:
            raise _TooCostly(f"is a JPEG of more than {most} scans")
        place = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2]))
    raise _TooCostly("is a JPEG of too many parts")


def _single_scan(file: IO[bytes], place: int = 2, most: int = MAX_SEGMENTS) -> bool:
    """True for a baseline JPEG whose first scan has all components: no other scan is read then."""
    parts = b""
    for marker, _, head in _jpeg_segments(file, place, most):
        if marker in FRAMES:
            parts = head[5:6] if marker in BASELINE else b""
        if marker == SCAN:
            return parts != b"" and head[:1] == parts
    return False


def _png_header(file: IO[bytes]) -> None:
    """Bound the chunks, those after the pixels too, which Pillow reads with them."""
    asides = packed = profiles = 0
    for kind, _ in _png_chunks(file):
        asides += kind not in PIXELS
        packed += kind in (b"zTXt", b"iTXt", b"iCCP")
        profiles += kind == b"iCCP"
        if asides > MAX_ASIDES or packed > MAX_PACKED or profiles > 1:
            raise _TooCostly("is a PNG with more texts and profiles than a picture needs")


def _png_chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Kind of each chunk, and the place of its data."""
    place = 8
    for _ in range(MAX_CHUNKS):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        yield head[4:], place + 8
        place += 12 + int.from_bytes(head[:4])
    raise _TooCostly(f"is a PNG of more than {MAX_CHUNKS} chunks")


def _gif_header(file: IO[bytes]) -> None:
    """Bound the blocks before the first frame."""
    head = file.read(13)
    if head[10:11] and head[10] & 128:
        file.seek(3 << ((head[10] & 7) + 1), io.SEEK_CUR)
    blocks = 0
    while (kind := file.read(1)) not in (b"", b";", b","):
        blocks += 1
        if kind == b"!":
            file.read(1)
            while blocks < MAX_BLOCKS and (length := file.read(1)) not in (b"", b"\0"):
                file.seek(length[0], io.SEEK_CUR)
                blocks += 1
        if blocks >= MAX_BLOCKS:
            raise _TooCostly(f"is a GIF of more than {MAX_BLOCKS} blocks before its pixels")


def _webp_header(file: IO[bytes]) -> None:
    """Bound the chunks: libwebp keeps a record of each."""
    place = 12
    for _ in range(MAX_FRAMES):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        place += 8 + (int.from_bytes(head[4:], "little") + 1 & ~1)
    raise _TooCostly(f"is a WebP of more than {MAX_FRAMES} chunks")


def _bmp_header(file: IO[bytes]) -> None:
    """Refuse run-length compression."""
    head = file.read(34)
    if head[14:18] != b"\x0c\0\0\0" and head[30:] in (
        b"\1\0\0\0",
        b"\2\0\0\0",
    ):  # Pillow reads it in slow Python
        raise _TooCostly("is a run-length BMP")


def _tiff_header(file: IO[bytes]) -> None:
    """Bound tags and tiles, and refuse compressions that are rare or costly."""
    order, tags = _tiff_tags(file)
    geometry = [_tiff_number(order, tags.get(tag, [])) for tag in GEOMETRY]
    width, height, compression, rows, tile_width, tile_height = geometry
    if (compression or 1) not in COMPRESSIONS:
        raise _TooCostly(f"is a TIFF of compression {compression}, which is not read here")
    if not width or not height:
        return
    across, down = tile_width or width, tile_height or min(rows or height, height)
    columns, lines = math.ceil(width / across), math.ceil(height / down)
    tiles = columns * lines
    most = MAX_TILES if compression != JPEG else MAX_TILES >> 4
    if tiles > most or tiles * across * down > 4 * width * height + MAX_PADDING:
        raise _TooCostly(f"is a TIFF of {tiles} tiles of {across}x{down}")
    if compression == JPEG:
        for place in {
            place for tag in OFFSETS for entry in tags.get(tag, []) for place in _tiff_numbers(file, order, *entry)
        }:
            if place and not _single_scan(file, place + 2, MAX_TILE_SEGMENTS):
                raise _TooCostly("is a TIFF of JPEGs with several scans")


def _tiff_tags(file: IO[bytes]) -> tuple[str, dict[int, list[tuple[int, int, bytes]]]]:
    """Byte order, and type, count and field of each tag of the first directory, once per occurrence.

    The directories that it points to are checked too, as Pillow reads them.
    """
    head = file.read(16)
    order, big = "<" if head.startswith(b"II") else ">", head[2:4] in (b"+\0", b"\0+")
    entry, start, long, number = ("HHQ8s", 8, "Q", "Q") if big else ("HHL4s", 4, "L", "H")
    first: dict[int, list[tuple[int, int, bytes]]] = {}
    if len(head) < 16:
        return order, first
    places, left = [struct.unpack_from(order + long, head, start)[0]], MAX_VALUES
    for seen in range(len(DIRECTORIES) + 1):
        if not places:
            break
        for tag, kind, count, field in _tiff_entries(file, places.pop(), order + entry, order + number):
            left -= 0 if kind in TOGETHER else 8 * count if kind in FRACTIONS else count
            if left < 0:
                raise _TooCostly("has tags of more values than a picture needs")
            if not seen:
                first.setdefault(tag, []).append((kind, count, field))
            if tag in DIRECTORIES:
                places += struct.unpack(order + long, field)
    return order, first


def _tiff_number(order: str, entries: list[tuple[int, int, bytes]]) -> int | None:
    """Integer of a tag that must have a single one."""
    if not entries:
        return None
    [(kind, count, field)] = entries if len(entries) == 1 else [(0, 0, b"")]
    if count != 1 or kind not in TYPES or struct.calcsize(order + TYPES[kind]) > len(field):
        raise _TooCostly("is a TIFF that gives its size twice, or not as an integer")
    return int(struct.unpack_from(order + TYPES[kind], field)[0])


def _tiff_numbers(file: IO[bytes], order: str, kind: int, count: int, field: bytes) -> tuple[int, ...]:
    """Integers that a tag contains or points to."""
    form = f"{order}{count}{TYPES.get(kind, 'x')}"
    data = field
    if struct.calcsize(form) > len(field):
        file.seek(int.from_bytes(field, "little" if order == "<" else "big") & (1 << 62) - 1)
        data = file.read(struct.calcsize(form))
    return struct.unpack_from(form, data.ljust(struct.calcsize(form), b"\0"))


def _tiff_entries(file: IO[bytes], place: int, entry: str, number: str) -> Iterator[tuple[int, int, int, bytes]]:
    """Tag, type, count and the four or eight bytes of each entry of a directory."""
    if place >= 1 << 63:
        return
    file.seek(place)
    head = file.read(struct.calcsize(number))
    if len(head) < struct.calcsize(number):
        return
    [count] = struct.unpack(number, head)
    if count > MAX_TAGS:
        raise _TooCostly(f"has more than {MAX_TAGS} tags")
    block = file.read(count * struct.calcsize(entry))
    yield from struct.iter_unpack(entry, block[: len(block) // struct.calcsize(entry) * struct.calcsize(entry)])


CHECKS = {
    "JPEG": _jpeg_header,
    "PNG": _png_header,
    "GIF": _gif_header,
    "WEBP": _webp_header,
    "BMP": _bmp_header,
    "TIFF": _tiff_header,
}

"""The structure of image files, walked before a codec sees it: a file that costs far more than its pixels is refused.

Width and height bound what honest files cost. They do not bound how often a JPEG may paint the same pixels,
how many chunks, blocks or tags may stand around them, or how large the one tile of a TIFF may be.
Damage is left to the readers, which find it by themselves.

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

MAX_SCANS = 100  # of a JPEG, where a usual progressive one has about ten
SCANNED = 600_000_000  # pixels that all of them may pass together;
FEW_SCANS = 20  # so many may always be there
MAX_SEGMENTS = 1000  # before a JPEG's first scan: a colour profile may take dozens
MAX_EXIF = 1 << 18  # bytes, in a JPEG
MAX_PROGRAMS = 1 << 24  # bytes that programs may put before a JPEG's pixels, for themselves
MAX_TABLE = 1 << 12  # bytes of any other segment
MAX_GAP = 1 << 10  # bytes of nothing between two segments
MAX_JPEG = 1 << 28  # bytes of a JPEG whose scans have to be told from thumbnails
MAX_CHUNKS = 1 << 15  # of a PNG: in 32 MB they have 1,000 bytes each, where 8,192 are usual
MAX_ASIDES = 1000  # those of its chunks that hold no pixels
MAX_PACKED = 20  # those of them that may unfold to a megabyte each
MAX_BLOCKS = 1 << 15  # before a GIF's first frame
MAX_FRAMES = 1 << 14  # and other chunks of a WebP
MAX_TAGS = 1000  # of a directory in a TIFF or EXIF
MAX_VALUES = 1 << 18  # of all its tags; a fraction counts as eight
MAX_TILES = 1 << 16  # or strips
MAX_PADDING = 1 << 22  # pixels of tiles beyond four times the picture: one of 2048x2048 for an icon

MARKER = re.compile(rb"\xff([\x01-\xfe])")
NO_RESTART = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
ALONE = {0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}  # markers that Pillow takes without a length
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
BASELINE, ARITHMETIC, END, SCAN, EXIF, TEXT = (0xC0, 0xC1), 0xC9, 0xD9, 0xDA, 0xE1, 0xFE
PROGRAMS = {*range(0xE0, 0xF0), TEXT}

PIXELS = (b"IDAT", b"fdAT")

WIDTH, HEIGHT, COMPRESSION, ROWS, TILE_WIDTH, TILE_HEIGHT = GEOMETRY = (256, 257, 259, 278, 322, 323)
COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946)  # none, fax, LZW, JPEG, deflate, PackBits
JPEG, OFFSETS = 7, (273, 324)  # of strips and tiles
DIRECTORIES = (34665, 34853, 40965)  # tags that point to further ones, which Pillow reads with the first
TYPES = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q"}  # of whole numbers
TOGETHER, FRACTIONS = (1, 2, 7), (5, 10)  # types whose values stay one object; and those that are an object each


class _Costly(Exception):
    """What is wrong with a file, to be read behind its name."""


def check_header(file: IO[bytes], format: str, name: str) -> None:
    """Refuse a file whose header takes long to read; `format` as Pillow says it."""
    try:
        file.seek(0)
        CHECKS[format](file)
    except _Costly as problem:
        raise UserError(f"{name} {problem}; save it anew, as PNG") from None


def check_body(file: IO[bytes], format: str, pixels: int, name: str) -> None:
    """Refuse a file whose pixels, so many, take long to decode; its header has been checked."""
    try:
        if format == "JPEG":
            _jpeg_scans(file, max(FEW_SCANS, min(MAX_SCANS, SCANNED // pixels)))
    except _Costly as problem:
        raise UserError(f"{name} {problem}; save it anew, as PNG") from None


def turned_behind(file: IO[bytes]) -> bool:
    """Whether a PNG may say behind its pixels how it is turned; its header has been checked."""
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


def sound_exif(block: bytes) -> bool:
    """Whether an EXIF block is one that Pillow reads at once."""
    try:
        _tiff_tags(io.BytesIO(re.sub(b"^(Exif\0\0){1,2}", b"", block)))
    except _Costly:
        return False
    return True


def _jpeg_segments(file: IO[bytes], place: int = 2) -> Iterator[tuple[int, int, bytes]]:
    """Marker, length and the first bytes of each segment up to the first scan's, as Pillow finds them."""
    for _ in range(MAX_SEGMENTS):
        file.seek(place)
        start = file.read(MAX_GAP)
        found = MARKER.search(start)
        if not found:
            if len(start) == MAX_GAP:
                raise _Costly("is a JPEG with a gap between its parts")
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
    raise _Costly(f"is a JPEG of more than {MAX_SEGMENTS} parts before its pixels")


def _jpeg_header(file: IO[bytes]) -> None:
    exif = frames = programs = 0
    for marker, length, head in _jpeg_segments(file):
        frames += marker in FRAMES
        programs += length if marker in PROGRAMS else 0
        exif += length if marker == EXIF and head.startswith(b"Exif") else 0
        if marker in FRAMES and marker >= ARITHMETIC:
            raise _Costly("is a JPEG with arithmetic coding, which few programs read")
        too_long = length > MAX_TABLE and marker not in PROGRAMS
        if too_long or frames > 1 or exif > MAX_EXIF or programs > MAX_PROGRAMS:
            raise _Costly("is a JPEG with more before its pixels than a picture needs")


def _jpeg_scans(file: IO[bytes], most: int) -> None:
    """All scans pass all pixels, however short they are."""
    if _single_scan(file):
        return
    file.seek(0)
    seen, last = 0, b""
    while block := file.read(1 << 20):
        seen += (last + block).count(b"\xff\xda")
        last = block[-1:]
    if seen <= most:
        return
    # Some may stand in thumbnails, or behind the picture's end, where phones put films.
    file.seek(0)
    data = file.read(MAX_JPEG)
    place, scans = 2, 0
    for _ in range(MAX_SEGMENTS + 10 * most):
        found = NO_RESTART.search(data, place)
        if found is None or found[1][0] == END:
            return
        scans += found[1][0] == SCAN
        if scans > most:
            raise _Costly(f"is a JPEG of more than {most} scans")
        place = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2]))
    raise _Costly("is a JPEG of too many parts")


def _single_scan(file: IO[bytes], place: int = 2) -> bool:
    """Whether it is a baseline JPEG whose first scan holds all components: then no other is read."""
    parts = b""
    for marker, _, head in _jpeg_segments(file, place):
        if marker in FRAMES:
            parts = head[5:6] if marker in BASELINE else b""
        if marker == SCAN:
            return parts != b"" and head[:1] == parts
    return False


def _png_header(file: IO[bytes]) -> None:
    """All chunks: Pillow reads those behind the pixels with them."""
    asides = packed = profiles = 0
    for kind, _ in _png_chunks(file):
        asides += kind not in PIXELS
        packed += kind in (b"zTXt", b"iTXt", b"iCCP")
        profiles += kind == b"iCCP"
        if asides > MAX_ASIDES or packed > MAX_PACKED or profiles > 1:
            raise _Costly("is a PNG with more texts and profiles than a picture needs")


def _png_chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """The kind of each chunk, and where its data begin."""
    place = 8
    for _ in range(MAX_CHUNKS):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        yield head[4:], place + 8
        place += 12 + int.from_bytes(head[:4])
    raise _Costly(f"is a PNG of more than {MAX_CHUNKS} chunks")


def _gif_header(file: IO[bytes]) -> None:
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
            raise _Costly(f"is a GIF of more than {MAX_BLOCKS} blocks before its pixels")


def _webp_header(file: IO[bytes]) -> None:
    """libwebp keeps a record of each chunk."""
    place = 12
    for _ in range(MAX_FRAMES):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        place += 8 + (int.from_bytes(head[4:], "little") + 1 & ~1)
    raise _Costly(f"is a WebP of more than {MAX_FRAMES} chunks")


def _bmp_header(file: IO[bytes]) -> None:
    head = file.read(34)
    if head[14:18] != b"\x0c\0\0\0" and head[30:] in (b"\1\0\0\0", b"\2\0\0\0"):  # read in Python, for seconds
        raise _Costly("is a run-length BMP")


def _tiff_header(file: IO[bytes]) -> None:
    order, tags = _tiff_tags(file)
    geometry = [_tiff_number(order, tags.get(tag, [])) for tag in GEOMETRY]
    width, height, compression, rows, tile_width, tile_height = geometry
    if (compression or 1) not in COMPRESSIONS:
        raise _Costly(f"is a TIFF of compression {compression}, which is not read here")
    if not width or not height:
        return
    across, down = tile_width or width, tile_height or min(rows or height, height)
    columns, lines = math.ceil(width / across), math.ceil(height / down)
    tiles = columns * lines
    most = MAX_TILES if compression != JPEG else MAX_TILES >> 4
    if tiles > most or tiles * across * down > 4 * width * height + MAX_PADDING:
        raise _Costly(f"is a TIFF of {tiles} tiles of {across}x{down}")
    if compression == JPEG:
        for place in {
            place for tag in OFFSETS for entry in tags.get(tag, []) for place in _tiff_numbers(file, order, *entry)
        }:
            if place and not _single_scan(file, place + 2):
                raise _Costly("is a TIFF of JPEGs with several scans")


def _tiff_tags(file: IO[bytes]) -> tuple[str, dict[int, list[tuple[int, int, bytes]]]]:
    """The byte order, and type, count and field of each tag of the first directory, as often as it stands there.

    The directories that it points to are looked at, as Pillow reads them too.
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
                raise _Costly("has tags of more values than a picture needs")
            if not seen:
                first.setdefault(tag, []).append((kind, count, field))
            if tag in DIRECTORIES:
                places += struct.unpack(order + long, field)
    return order, first


def _tiff_number(order: str, entries: list[tuple[int, int, bytes]]) -> int | None:
    """The whole number that a tag stands for, which must be one alone."""
    if not entries:
        return None
    [(kind, count, field)] = entries if len(entries) == 1 else [(0, 0, b"")]
    if count != 1 or kind not in TYPES or struct.calcsize(order + TYPES[kind]) > len(field):
        raise _Costly("is a TIFF that gives its size twice, or as no whole number")
    return struct.unpack_from(order + TYPES[kind], field)[0]


def _tiff_numbers(file: IO[bytes], order: str, kind: int, count: int, field: bytes) -> tuple[int, ...]:
    """The whole numbers that a tag lists, or that it points to."""
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
        raise _Costly(f"has more than {MAX_TAGS} tags")
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

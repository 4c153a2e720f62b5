"""Files that would cost far more than their pixels, each refused at once, beside files like them that are read."""

import io
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzero.data.readers.pictures import image_size, read_mask
from segzero.errors import UserError
from segzero.images import load_image, measure_image

SIDE = 64


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def picture(mode: str = "RGB", side: int = SIDE) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (side, side, 4), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def refused(file: bytes, why: str) -> None:
    """By everything that opens files, in a fraction of a second."""
    start = time.process_time()
    for read in (load_image, measure_image, lambda file: read_mask(file, (SIDE, SIDE))):
        with pytest.raises(UserError, match=why) as raised:
            read(file)
        assert "\n" not in str(raised.value)
    assert time.process_time() - start < 0.3


def jpeg_of_scans(count: int, mode: str = "RGB") -> bytes:
    """A progressive JPEG whose last scan is there as often as it takes."""
    file = encoded(picture(mode), "JPEG", progressive=True)
    scan = file[file.rindex(b"\xff\xda") : -2]
    return file[:-2] + scan * (count - file.count(b"\xff\xda")) + b"\xff\xd9"


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def in_front(file: bytes, *parts: bytes) -> bytes:
    """A JPEG with parts before all its own."""
    return file[:2] + b"".join(parts) + file[2:]


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(before: bytes = b"", behind: bytes = b"", pieces: int = 1, side: int = SIDE) -> bytes:
    """A red PNG with further chunks around its pixels, which stand in that many."""
    data = zlib.compress((b"\0" + b"\xff\0\0" * side) * side, 0)
    cuts = np.linspace(0, len(data), pieces + 1).astype(int)
    pixels = b"".join(chunk(b"IDAT", data[a:b]) for a, b in pairwise(cuts))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + behind + chunk(b"IEND")


def gif(before: bytes) -> bytes:
    """A black GIF with further blocks before its frame."""
    file = encoded(Image.new("L", (SIDE, SIDE)), "GIF")
    start = 13 + (3 << ((file[10] & 7) + 1) if file[10] & 128 else 0)
    return file[:start] + before + file[start:]


def tiff(tags: dict[int, tuple[int, int, int | bytes]], pixels: bytes = bytes(SIDE * SIDE), big: bool = False) -> bytes:
    """A grey TIFF of one strip, with these tags (type, count, value or values) beside or instead of its own."""
    entry, start = ("<HHQQ", 24 + 20 * 20) if big else ("<HHII", 10 + 12 * 20)
    own = {256: SIDE, 257: SIDE, 258: 8, 259: 1, 262: 1, 273: start, 278: SIDE, 279: len(pixels)}
    every = {tag: (4, 1, value) for tag, value in own.items()} | tags
    entries, data = b"", pixels
    for tag, (kind, count, value) in sorted(every.items()):
        if isinstance(value, bytes):
            value, data = start + len(data), data + value
        entries += struct.pack(entry, tag, kind, count, value)
    if big:
        head = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, len(every))
    else:
        head = b"II*\0" + struct.pack("<IH", 8, len(every))
    return (head + entries).ljust(start, b"\0") + data


@pytest.mark.parametrize("count", [20, 100])
def test_a_jpeg_may_have_as_many_scans_as_declared(count):
    assert load_image(jpeg_of_scans(count)).size == (SIDE, SIDE)


def test_a_jpeg_of_more_scans_is_refused():
    refused(jpeg_of_scans(101), "more than 100 scans")
    refused(jpeg_of_scans(20_000), "more than 100 scans")
    refused(in_front(jpeg_of_scans(101), segment(0xE1, b"\xff\xd9" * 100)), "more than 100 scans")
    file = jpeg_of_scans(150)
    last = file.rindex(b"\xff\xda")
    first = last - 95 * (len(file) - 2 - last)  # a marker that has no length hides no scans behind it
    refused(file[:first] + b"\xff\x01\xfe\xfe" + file[first:], "more than 100 scans")


def test_a_large_jpeg_may_have_fewer_scans():
    file = bytearray(jpeg_of_scans(30))
    at = file.index(b"\xff\xc2") + 5
    file[at : at + 4] = struct.pack(">HH", 5000, 5000)
    with pytest.raises(UserError, match="more than 24 scans"):
        load_image(bytes(file))


def test_scans_of_thumbnails_and_of_films_behind_the_end_do_not_count():
    hidden = segment(0xE5, b"\xff\xda" * 30_000)
    assert load_image(in_front(jpeg_of_scans(12), hidden)).size == (SIDE, SIDE)
    assert load_image(jpeg_of_scans(12) + b"\xff\xda" * 1000).size == (SIDE, SIDE)
    assert load_image(in_front(encoded(picture(), "JPEG"), hidden)).size == (SIDE, SIDE)


def test_scans_are_counted_in_little_time():
    start = jpeg_of_scans(12)[:-2]
    for filling in (b"\xff\xda\0\2", b"\xff\0", b"\xff", b"\xff\xd0", b"\0"):
        file = start + filling * (8_000_000 // len(filling)) + b"\xff\xd9"
        began = time.process_time()
        try:
            measure_image(file)
        except UserError as error:
            assert "scans" in str(error)
        assert time.process_time() - began < 0.2


def test_filling_in_a_jpeg_does_not_cost_its_square():
    began = time.process_time()
    load_image(jpeg_of_scans(12)[:-2] + b"\xff" * 16_000_000 + b"\xff\xd9")
    assert time.process_time() - began < 2  # 4 s and more where libjpeg gets 64 kB at a time


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([b"\xff\xe5\0\3x"] * 100_000, "1000 parts"),
        ([b"\xff\xfe\0\2"] * 100_000, "1000 parts"),
        ([b"\xff\xd0"] * 100_000, "1000 parts"),
        ([segment(0xE0, b"JFIF\0"), bytes(100_000)], "a gap"),
        ([segment(0xE0, b"JFIF\0"), b"\xff" * 100_000], "a gap"),
        ([segment(0xDB, (b"\0" + b"\1" * 64) * 1000)], "more before its pixels"),
        ([segment(0xC0, b"\x08\0\x10\0\x10\3" + b"\1\x11\0" * 3)], "more before its pixels"),
        ([segment(0xE1, b"Exif\0\0" + bytes(60_000))] * 10, "more before its pixels"),
        ([segment(0xED, b"Photoshop 3.0\0" + bytes(60_000))] * 400, "more before its pixels"),
    ],
)
def test_a_jpeg_of_many_parts_is_refused(parts, why):
    refused(in_front(encoded(picture(), "JPEG"), *parts), why)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_jpeg_may_have_a_large_colour_profile_and_texts():
    parts = [segment(0xE2, b"ICC_PROFILE\0" + bytes([k, 40]) + bytes(65_000)) for k in range(1, 41)]
    parts += [segment(0xE1, b"Exif\0\0MM\0*" + bytes(1000)), segment(0xFE, b"a comment"), bytes(20)]
    assert load_image(in_front(encoded(picture(), "JPEG"), *parts)).size == (SIDE, SIDE)


def test_arithmetic_coding_is_refused():
    refused(encoded(picture(), "JPEG").replace(b"\xff\xc0", b"\xff\xc9", 1), "arithmetic coding")


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (png(before=chunk(b"abCd") * 2000), "more texts"),
        (png(behind=chunk(b"abCd") * 2000), "more texts"),
        (png(before=chunk(b"tEXt", b"a\0b") * 2000), "more texts"),
        (png(before=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 2), "more texts"),
        (png(behind=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 30), "more texts"),
        (png(behind=chunk(b"IDAT") * 40_000), "32768 chunks"),
        (png(before=chunk(b"IDAT") * 40_000), "32768 chunks"),
    ],
)
def test_a_png_of_many_chunks_is_refused(file, why):
    refused(file, why)


def test_a_png_may_have_many_chunks():
    texts = chunk(b"tEXt", b"a\0b") * 500 + chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100_000)))
    assert load_image(png(texts, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b")), 2000)).getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize("before", [b"!\xfe" + b"\1x" * 40_000 + b"\0", b"!\xff\0" * 40_000, bytes(40_000)])
def test_a_gif_of_many_blocks_is_refused(before):
    refused(gif(before), "32768 blocks")


def test_a_gif_may_have_a_long_comment():
    assert load_image(gif(b"!\xfe" + (b"\xff" + b"x" * 255) * 4000 + b"\0")).size == (SIDE, SIDE)


@pytest.mark.parametrize("compression", [1, 2])
def test_a_run_length_bmp_is_refused(compression):
    file = bytearray(encoded(picture("P"), "BMP"))
    assert load_image(bytes(file)).size == (SIDE, SIDE)
    file[30] = compression
    refused(bytes(file), "run-length BMP")


ONE = struct.pack("<II", 1, 2)


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({282: (5, 100_000, ONE * 100_000)}, "tags of more values"),
        ({258: (3, 300_000, b"\x08\0" * 300_000)}, "tags of more values"),
        ({273: (4, 300_000, b"\x08\0\0\0" * 300_000)}, "tags of more values"),
        ({278: (3, 1, 1), 257: (4, 1, 100_000)}, "100000 tiles of 64x1"),
        ({322: (4, 1, 1 << 15), 323: (4, 1, 1 << 15), 324: (4, 1, 8)}, "1 tiles of 32768x32768"),
        ({322: (3, 1, 16), 323: (4, 1, 1 << 16), 256: (4, 1, 32_000), 257: (4, 1, 1)}, "2000 tiles of 16x65536"),
        ({322: (3, 2, 16 + (16 << 16))}, "not as an integer"),
        ({322: (11, 1, 16)}, "not as an integer"),
        ({259: (3, 1, 34925)}, "compression 34925"),
        ({259: (3, 1, 50001)}, "compression 50001"),
    ],
)
@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_of_odd_tags_or_tiles_is_refused(tags, why, big):
    refused(tiff(tags, big=big), why)


def test_a_directory_of_many_tags_is_refused_wherever_it_stands():
    entry = struct.pack("<HHQQ", 300, 3, 1, 2)
    refused(b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 100_000) + entry * 100_000, "1000 tags")
    file = tiff({34665: (16, 1, 0)}, big=True)
    file += struct.pack("<Q", 100_000) + entry * 100_000
    at = file.index(struct.pack("<HHQQ", 34665, 16, 1, 0)) + 12
    refused(file[:at] + struct.pack("<Q", len(tiff({34665: (16, 1, 0)}, big=True))) + file[at + 8 :], "1000 tags")


@pytest.mark.parametrize("big", [False, True])
def test_usual_tiffs_are_read(big):
    assert load_image(tiff({}, big=big)).size == (SIDE, SIDE)
    tile = {322: (3, 1, 256), 323: (3, 1, 256), 324: (4, 1, 500), 325: (4, 1, 1 << 16)}
    assert load_image(tiff(tile, bytes(1 << 17), big)).size == (SIDE, SIDE)
    assert (
        load_image(tiff({282: (5, 1, ONE), 283: (5, 1, ONE), 700: (1, 400_000, bytes(400_000))}, big=big)).mode == "RGB"
    )


def test_a_tiff_of_progressive_jpegs_is_refused():
    for file, fits in ((encoded(picture("L"), "JPEG"), True), (jpeg_of_scans(20, mode="L"), False)):
        strips = tiff({259: (3, 1, 7)}, file)
        tiles = {322: (3, 1, 64), 323: (3, 1, 64), 324: (4, 2, struct.pack("<II", 250, 250)), 325: (4, 2, bytes(8))}
        if fits:
            assert load_image(strips).size == (SIDE, SIDE)
        else:
            refused(strips, "JPEGs with several scans")
            refused(tiff({259: (3, 1, 7)} | tiles, file), "JPEGs with several scans")


def test_a_webp_of_many_frames_is_refused():
    red, blue = Image.new("RGB", (SIDE, SIDE), "red"), Image.new("RGB", (SIDE, SIDE), "blue")
    file = encoded(red, "WEBP", lossless=True, save_all=True, append_images=[blue, red])
    assert load_image(file).getpixel((5, 5)) == (255, 0, 0)
    refused(file + b"ANMF\0\0\0\0" * 20_000, "16384 chunks")


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg", "raw"])
def test_usual_compressions_of_a_tiff_are_read(compression):
    assert load_image(encoded(picture(), "TIFF", compression=compression)).size == (SIDE, SIDE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_exif_block_that_takes_long_to_read_is_left_out(kind):
    for block in (
        b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 5, 400_000, 26) + bytes(4) + ONE * 400_000,
        b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 300_000) + struct.pack("<HHQQ", 300, 3, 1, 2) * 300_000,
    ):
        file = encoded(picture(), kind, exif=b"Exif\0\0" + block, **({"lossless": True} if kind == "WEBP" else {}))
        start = time.process_time()
        assert load_image(file).size == image_size(file) == (SIDE, SIDE)
        assert time.process_time() - start < 0.4


@pytest.mark.parametrize("place", ["before", "behind"])
def test_the_size_of_a_png_is_known_without_its_pixels(place):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = {place: chunk(b"eXIf", exif.tobytes()[6:])}
    wide = png(**turned).replace(struct.pack(">II", SIDE, SIDE), struct.pack(">II", SIDE, SIDE))
    assert image_size(wide) == load_image(wide).size
    broken = bytearray(png(before=turned.get("before", b"")))
    broken[broken.index(b"IDAT") + 6] ^= 0xFF
    assert image_size(bytes(broken)) == (SIDE, SIDE)
    with pytest.raises(UserError, match="damaged"):
        load_image(bytes(broken))


def numbers(mode: str, side: int) -> Image.Image:
    values = np.arange(side * side).reshape(side, side)
    return Image.fromarray(values.astype({"F": np.float32, "I": np.int32, "I;16": np.uint16}[mode]))


@pytest.mark.parametrize("mode", ["F", "I", "I;16", "RGBA", "LA", "P", "CMYK", "L", "1"])
def test_blocks_leave_no_trace(mode, monkeypatch):
    image = numbers(mode, 50) if mode in ("F", "I", "I;16") else picture(mode, 50)
    whole = load_image(image)
    for block in (7, 64, 120, 2499):
        monkeypatch.setattr("segzero.images.BLOCK", block)
        assert load_image(image).tobytes() == whole.tobytes()


@pytest.mark.parametrize("mode", ["F", "I", "I;16"])
def test_numbers_are_converted_in_little_memory(mode):
    image = numbers(mode, 2000)
    tracemalloc.start()  # sees numpy's arrays, not Pillow's pixels
    try:
        load_image(image)
        assert tracemalloc.get_traced_memory()[1] < 3 * image.width * image.height
    finally:
        tracemalloc.stop()


def test_an_image_from_a_file_keeps_nothing_but_its_pixels():
    for format in ("JPEG", "PNG", "WEBP", "TIFF"):
        image = load_image(encoded(picture(), format, **({"lossless": True} if format == "WEBP" else {})))
        assert type(image) is Image.Image and not image.info


PEAK = """
import sys, numpy
from pathlib import Path
from segzero.images import load_image

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

for path in sys.argv[1:]:
    file = Path(path).read_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = kilobytes("VmRSS:")
    image = load_image(file)
    print(1024 * (kilobytes("VmHWM:") - before) / (image.width * image.height))
    del image
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak")
def test_decoding_takes_eight_bytes_a_pixel_beside_the_result(tmp_path):
    side = 2000
    turned = Image.Exif()
    turned[0x0112] = 6
    flat = Image.new("RGBA", (side, side), (10, 20, 30, 40))
    kinds = {
        "float.tiff": encoded(numbers("F", side), "TIFF", compression="tiff_lzw"),
        "float_again.tiff": encoded(numbers("F", side), "TIFF", compression="tiff_lzw"),
        "turned.png": encoded(flat, "PNG", compress_level=1, exif=turned),
        "lossless.webp": encoded(flat, "WEBP", lossless=True, method=0),
        "cmyk.jpg": encoded(flat.convert("RGB").convert("CMYK"), "JPEG", progressive=True),
    }
    for name, file in kinds.items():
        (tmp_path / name).write_bytes(file)
    paths = [str(tmp_path / name) for name in kinds]
    measured = subprocess.run([sys.executable, "-c", PEAK, *paths], capture_output=True, text=True, check=True)
    assert all(float(peak) < 4 + 8 + 1 for peak in measured.stdout.split()[1:]), measured.stdout


def test_files_on_disk_are_looked_at_too(tmp_path):
    path = tmp_path / "scans.jpg"
    path.write_bytes(jpeg_of_scans(2000))
    assert image_size(path) == (SIDE, SIDE)  # its header is in order, and more is not read
    with pytest.raises(UserError, match=r"scans\.jpg is a JPEG of more than 100 scans"):
        load_image(path)
    path.write_bytes(jpeg_of_scans(12))
    assert load_image(path).size == (SIDE, SIDE)

import base64
import io
import os
import struct
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzero.errors import UserError
from segzero.images import MAX_PIXELS, data_url, find_images, image_key, load_image, pixels_key

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def scene(size=(60, 40)) -> Image.Image:
    """Noise that compresses badly, with a red upper left corner to tell which way is up."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] = RED
    return Image.fromarray(pixels)


def huge_png(width: int, height: int) -> bytes:
    """A well-formed file of a few bytes that claims to be large and holds hardly any pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and text == text.strip()
    return text


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP"])
def test_every_allowed_format_from_path_and_bytes(tmp_path, format):
    data = encoded(scene(), format)
    path = tmp_path / "no_suffix_needed"
    path.write_bytes(data)
    from_path, from_bytes, from_text = load_image(path), load_image(data), load_image(str(path))
    assert from_path.mode == "RGB" and from_path.size == (60, 40)
    assert from_path.tobytes() == from_bytes.tobytes() == from_text.tobytes()
    assert np.abs(np.array(from_path, int)[5, 5] - RED).max() < 20
    if format in ("PNG", "BMP", "TIFF"):
        assert from_path.tobytes() == scene().tobytes()


def test_one_pixel():
    assert load_image(encoded(Image.new("RGB", (1, 1), BLUE))).getpixel((0, 0)) == BLUE


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(format):
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    image = load_image(encoded(Image.fromarray(values), format))
    assert np.array(image)[0].tolist() == [[v] * 3 for v in (0, 1, 1, 128, 255)]


def test_big_endian_sixteen_bit():
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 65535, 32768))
    assert np.array(load_image(image))[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_without_an_agreed_white_are_stretched(kind):
    values = np.array([[-1000, 0, 1000]], kind)
    assert np.array(load_image(encoded(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_floats_that_are_not_finite_are_black_and_a_flat_image_is_legal():
    values = np.array([[np.nan, np.inf, 1.0, 3.0]], np.float32)
    assert np.array(load_image(Image.fromarray(values)))[0, :, 0].tolist() == [0, 0, 0, 255]
    assert np.array(load_image(Image.fromarray(np.full((2, 2), np.nan, np.float32)))).max() == 0


def test_transparency_becomes_white():
    rgba = Image.new("RGBA", (3, 1), (*RED, 255))
    rgba.putpixel((1, 0), (*RED, 0))
    rgba.putpixel((2, 0), (*RED, 128))
    pixels = np.array(load_image(encoded(rgba)))[0]
    assert pixels[0].tolist() == list(RED) and pixels[1].tolist() == list(WHITE)
    assert pixels[2].tolist() == [255, 127, 127]


def test_transparent_palette_and_grey():
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putpixel((1, 0), 1)
    assert np.array(load_image(encoded(palette)))[0].tolist() == [list(RED), list(BLUE)]
    assert np.array(load_image(encoded(palette, transparency=0)))[0].tolist() == [list(WHITE), list(BLUE)]
    assert np.array(load_image(encoded(Image.new("LA", (1, 1), (10, 0)))))[0, 0].tolist() == list(WHITE)


def test_one_bit_and_cmyk():
    assert load_image(encoded(Image.new("1", (2, 2), 1))).getpixel((1, 1)) == WHITE
    for format in ("JPEG", "TIFF"):
        cyan = load_image(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), format)).getpixel((4, 4))
        assert cyan[0] < 10 and min(cyan[1:]) > 245


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(format):
    red, blue = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)
    options = {"lossless": True} if format == "WEBP" else {}
    image = load_image(encoded(red, format, save_all=True, append_images=[blue], **options))
    assert image.getpixel((8, 8)) == RED


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = Image.new("RGB", (64, 32), BLUE)
    upright.paste(RED, (0, 0, 16, 16))
    # What a camera stores for each orientation: the upright picture turned the other way.
    T = Image.Transpose
    undo = [None, T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM]
    undo += [T.TRANSPOSE, T.ROTATE_90, T.TRANSVERSE, T.ROTATE_270]
    how = undo[orientation - 1]
    stored = upright if how is None else upright.transpose(how)
    data = encoded(stored, format, exif=exif)

    image = load_image(data)
    again = load_image(image)
    by_hand = load_image(Image.open(io.BytesIO(data)))
    assert image.size == (64, 32)
    assert np.abs(np.array(image, int)[4, 4] - RED).max() < 25
    assert np.abs(np.array(image, int)[28, 60] - BLUE).max() < 25
    assert image.tobytes() == again.tobytes() == by_hand.tobytes()


def test_compressed_tiff_is_turned_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_image(encoded(scene(), "TIFF", exif=exif, compression="tiff_lzw")).size == (40, 60)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture():
    data = encoded(scene(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    assert load_image(data).size == (60, 40)


def test_an_rgb_image_in_memory_is_taken_as_it_is():
    image = scene()
    assert load_image(image) is image
    assert load_image(image, max_pixels=10) is image


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.8])
def test_a_truncated_file_is_refused_by_name(tmp_path, format, kept):
    data = encoded(scene(), format)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: max(int(len(data) * kept), 12)])
    with pytest.raises(UserError) as error:
        load_image(path)
    assert "cut.img" in one_line(error)


def test_random_damage_never_raises_anything_else():
    rng = np.random.default_rng(1)
    sources = [encoded(scene((24, 16)), f) for f in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")]
    sources.append(encoded(scene((24, 16)), "TIFF", compression="tiff_lzw"))
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on what it could repair
        for number in range(700):
            data = bytearray(sources[number % len(sources)])
            for place in rng.integers(0, min(len(data), 200), 3):
                data[place] = rng.integers(0, 256)
            try:
                assert load_image(bytes(data)).mode == "RGB"
            except UserError as error:
                refused += 1
                assert "\n" not in str(error)
    assert 100 < refused < 700


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "empty"),
        (b"hello, this is text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "cannot be read"),
        (b"P6 1 1 255\n\0\0\0", "not an image"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path, content, words):
    path = tmp_path / "thing.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        load_image(path)
    assert "thing.jpg" in one_line(error)


def test_missing_folder_pipe_and_wrong_type(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for source, words in [
        (tmp_path / "gone.png", "no such image"),
        (tmp_path, "folder"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path / ("x" * 300), "cannot open"),
        ("a\0b.png", "no such image"),
        (np.zeros((2, 2, 3), np.uint8), "not ndarray"),
    ]:
        with pytest.raises(UserError, match=words) as error:
            load_image(source)
        one_line(error)


def test_unreadable_file_and_folder():
    nobody = 65534
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody who may not read")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "private"
        folder.mkdir()
        (folder / "a.png").write_bytes(encoded(scene()))
        shared = Path(place) / "shared.png"
        shared.write_bytes(encoded(scene()))
        Path(place).chmod(0o755)
        folder.chmod(0o700)
        shared.chmod(0o600)
        os.seteuid(nobody)
        try:
            for call, what in [(load_image, folder / "a.png"), (load_image, shared), (find_images, folder)]:
                with pytest.raises(UserError, match="Permission denied") as error:
                    call(what)
                one_line(error)
        finally:
            os.seteuid(0)


def test_a_large_picture_is_refused_before_its_pixels_are_decoded():
    data = huge_png(20_000, 10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match="20000x10000: 200 megapixels, more than the 89 allowed"):
            load_image(data, name="bomb.png")
        # With a higher limit the pixels are asked for, and this file has none.
        data = huge_png(2000, 1000)
        with pytest.raises(UserError, match="2 megapixels"):
            load_image(data, max_pixels=1_999_999)
        with pytest.raises(UserError, match="damaged or cut off"):
            load_image(data, max_pixels=2_000_000)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG"])
def test_the_limit_is_the_callers_and_pillows_own_stays(monkeypatch, format):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # so that a small picture stands for a large one
    monkeypatch.setattr("segzero.images.MAX_PIXELS", 900)
    data = encoded(scene((80, 60)), format)
    with pytest.raises(UserError, match="max_pixels"):
        load_image(data, max_pixels=900)
    with pytest.raises(UserError, match="is 80x60: "):
        load_image(data, max_pixels=4799)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(data, max_pixels=4800).size == (80, 60)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_a_lazy_pil_image_is_bounded_as_a_file_is():
    lazy = Image.open(io.BytesIO(encoded(scene())))
    with pytest.raises(UserError, match="is 60x40: "):
        load_image(lazy, max_pixels=2399)


def test_usual_limit_never_needs_pillows_to_be_lifted():
    assert Image.MAX_IMAGE_PIXELS is not None and MAX_PIXELS <= Image.MAX_IMAGE_PIXELS


def test_an_image_without_pixels():
    with pytest.raises(UserError, match="no pixels"):
        load_image(Image.new("RGB", (0, 5)))


def test_find_images(tmp_path, monkeypatch):
    for name in ["b.PNG", "a.jpg", "notes.txt", ".hidden.png", "odd[1].webp"]:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "c.tif").write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()

    def names(found):
        return [str(p.relative_to(tmp_path)) for p in found]

    assert names(find_images(tmp_path)) == ["a.jpg", "b.PNG", "odd[1].webp"]
    assert names(find_images(str(tmp_path / "*"))) == ["a.jpg", "b.PNG", "odd[1].webp"]
    assert names(find_images(tmp_path / "**" / "*.tif")) == ["deep/er/c.tif"]
    assert names(find_images(tmp_path / "odd[1].webp")) == ["odd[1].webp"]
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    monkeypatch.chdir(tmp_path)
    assert find_images("*.jpg") == [Path("a.jpg")]
    assert find_images("./deep/*/c.*") == [Path("deep/er/c.tif")]


def test_finding_nothing_says_so(tmp_path):
    for what, words in [
        (tmp_path, "no images in the folder"),
        (tmp_path / "*.jpg", "match"),
        (tmp_path / "x", "no such"),
    ]:
        with pytest.raises(UserError, match=words) as error:
            find_images(what)
        assert str(tmp_path) in one_line(error)


def test_samples_of_one_image_share_a_key():
    file, other = encoded(scene()), encoded(scene((30, 20)))
    assert image_key("a.png") == "a.png" != image_key("b.png")
    assert image_key(file) == image_key(bytes(bytearray(file))) != image_key(other)


def test_the_same_pixels_from_another_file_share_a_key():
    picture = scene()
    again = load_image(encoded(picture, "BMP"))
    assert pixels_key(again) == pixels_key(picture) != pixels_key(picture.transpose(Image.Transpose.ROTATE_90))


def test_a_data_url_holds_the_file():
    file = encoded(scene())
    head, _, body = data_url(file).partition(",")
    assert head == "data:image/png;base64" and base64.b64decode(body) == file

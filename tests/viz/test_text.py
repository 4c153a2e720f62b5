import time

import pytest
from PIL import Image, ImageDraw

from segzero.viz.text import font_for, printable, wrap


def test_no_line_is_wider_than_asked_and_no_word_is_lost():
    text = "a question about the largest of all red shapes " * 20 + "w" * 500
    font = font_for(text, 20)
    lines = wrap(text, font, 300)
    assert max(font.getlength(line) for line in lines) <= 300
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_paragraphs_are_kept_and_blank_lines_are_not():
    assert wrap("one\n\n  two\nthree", font_for("", 20), 300) == ["one", "two", "three"]


def test_too_much_text_is_cut_and_says_so():
    font = font_for("", 20)
    lines = wrap("word " * 1000, font, 200, max_lines=3)
    assert len(lines) == 3 and lines[-1].endswith(" ...")
    assert max(font.getlength(line) for line in lines) <= 200
    assert wrap("short", font, 200, max_lines=3) == ["short"]
    assert wrap(" " * 10_000, font, 200, max_lines=3) == [" ..."]
    assert wrap("", font, 200) == []


@pytest.mark.parametrize(
    "text",
    [
        "图像中能遮雨的物体" * 50,
        "naïve é",
        "\ud800 lone",
        "\x00\x1b[31m",
        "🙂👩‍👩‍👧",
        "\u202eright to left",
        "مرحبا",
        "\uffff",
    ],
)
def test_any_text_is_drawn_within_the_width(text):
    font = font_for(text, 20)
    lines = wrap(text, font, 280)
    assert lines or not printable(text).strip()
    for line in lines:
        picture = Image.new("L", (400, 40))
        ImageDraw.Draw(picture).text((10, 20), line, "white", font, anchor="lm")
        left, top, right, bottom = picture.getbbox() or pytest.fail(f"{line!r} leaves no pixel")
        assert 0 < top < bottom < 40 and right - left <= 280 + 20  # letters may lean out of their advance


def test_signs_the_font_lacks_get_a_plain_form():
    assert printable("it’s “so” – 2×3 → 6…") == 'it\'s "so" - 2x3 -> 6...'  # noqa: RUF001
    assert font_for("it’s so", 20) is font_for("abc", 20)  # noqa: RUF001


def test_a_megabyte_takes_no_time():
    begin = time.perf_counter()
    for text in ["a" * 1_000_000, "a b " * 250_000, "\n" * 1_000_000]:
        wrap(text, font_for(text, 20), 500, max_lines=20)
    assert time.perf_counter() - begin < 10

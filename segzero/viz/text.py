"""Text on pictures: a font that has its characters, and lines that fit.

>>> font = font_for("a short line", 20)
>>> wrap("one two three", font, width=80)
['one two', 'three']
"""

from functools import cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont

MAX_TEXT = 6000  # characters that are drawn; a picture has no room for more

# Pillow's own font is always there, but has ASCII alone: signs that models often write get a plain form, and for other
# scripts one of the system's fonts is used.
PLAIN = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "→": "->", "•": "*", "×": "x", "\t": "  "}  # noqa: RUF001
)
SYSTEM_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "PingFang.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "DejaVuSans.ttf",
    "Arial.ttf",
)


def font_for(text: str, size: int) -> Font:
    """Choose the font that lacks the fewest characters of the text; a missing character is drawn as a box."""
    letters = set(printable(text)) - {" ", "\n"}
    own = _font(None, size)
    assert own is not None
    if all(letter < "\x7f" for letter in letters):
        return own
    fonts = [own, *(font for name in SYSTEM_FONTS if (font := _font(name, size)))]
    return min(fonts, key=lambda font: _missing(font, letters))


def printable(text: str) -> str:
    """Replace control characters and lone surrogates by spaces; line breaks are kept."""
    plain = text[:MAX_TEXT].translate(PLAIN)
    return "".join(c if c.isprintable() or c == "\n" else " " for c in plain)


def wrap(text: str, font: Font, width: float, max_lines: int = 1000) -> list[str]:
    """Break text into lines no wider than `width`; wider words are cut, and omitted text ends in " ..."."""
    lines = [line for paragraph in printable(text).split("\n") for line in _wrap_paragraph(paragraph, font, width)]
    if len(lines) <= max_lines and len(text) <= MAX_TEXT:
        return lines
    lines = lines[:max_lines] or [""]
    while lines[-1] and font.getlength(lines[-1] + " ...") > width:
        lines[-1] = lines[-1][:-1]
    lines[-1] += " ..."
    return lines


def _wrap_paragraph(paragraph: str, font: Font, width: float) -> list[str]:
    lines: list[str] = []
    line, used, space = "", 0.0, font.getlength(" ")
    for word in paragraph.split():
        for piece in _pieces(word, font, width):
            length = font.getlength(piece)
            if line and used + space + length > width:
                lines.append(line)
                line, used = "", 0.0
            line, used = (f"{line} {piece}", used + space + length) if line else (piece, length)
    return [*lines, line] if line else lines


def _pieces(word: str, font: Font, width: float) -> list[str]:
    """Cut a word into pieces no wider than a line; text in scripts without spaces is one long word."""
    if font.getlength(word) <= width:
        return [word]
    pieces, start, used = [], 0, 0.0
    for i, letter in enumerate(word):
        length = font.getlength(letter)
        if i > start and used + length > width:
            pieces.append(word[start:i])
            start, used = i, 0.0
        used += length
    return [*pieces, word[start:]]


@cache
def _font(name: str | None, size: int) -> Font | None:
    if name is None:
        font = ImageFont.load_default(size)
        assert isinstance(font, Font), "Pillow comes with FreeType"
        return font
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _missing(font: Font, letters: set[str]) -> int:
    missing = _shape(font, "\uffff")
    return sum(_shape(font, letter) == missing for letter in letters)


def _shape(font: Font, letter: str) -> bytes:
    return bytes(font.getmask(letter))

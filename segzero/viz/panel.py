"""Panels: a question, its image, the instances found and the reasoning, on one sheet.

>>> draw_panel(image, "the mug", instances).save("panel.png")           # doctest: +SKIP
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segzero.viz.overlay import MAX_DRAWN, Color, Drawable, Size, color_of, draw_mask, draw_overlay, resize, rounded
from segzero.viz.text import font_for, wrap

PAPER, INK, MUTED, RULE = (255, 255, 255), (23, 27, 33), (107, 115, 128), (208, 214, 222)
ALARM, CAUTION = (200, 38, 30), (222, 150, 20)
SIDE, GAP, MARGIN = 640, 24, 40  # pixels: longer side of a picture, space between blocks, space around all
TITLE, TEXT, SMALL = 30, 20, 15  # font sizes
LOOKS = 4  # in a row
LINE = 1.35  # distance of lines, in font sizes

# A mask [H, W] that was looked at, points x, y that correct it with a label (1 inside, 0 outside), and what was said.
Look = tuple[NDArray[np.bool_], Sequence[tuple[tuple[float, float], int]], str]


def draw_panel(
    image: Image.Image,
    question: str,
    instances: Sequence[Drawable],
    *,
    think: str = "",
    error: str | None = None,
    raw_text: str = "",
    warnings: Sequence[str] = (),
    truth: Sequence[Drawable] | None = None,
    boxes: bool = True,
    looks: Sequence[Look] = (),
) -> Image.Image:
    """Draw the image and its overlay side by side (one above the other if they are wide), with text above and below.

    `truth`, the true objects, get a third picture. An answer that could not be read has an `error`; its `raw_text` is
    then shown. `boxes`: draw those of the instances. `looks` of the policy at its earlier masks come last.
    """
    wide, size = _layout(image)
    original, overlay = resize(image, size), draw_overlay(image, instances, size, boxes)
    if not instances:
        overlay = Image.blend(overlay, Image.new("RGB", size, PAPER), 0.7)
    pictures = [original, overlay, *([] if truth is None else [draw_overlay(image, truth, size)])]
    row = _join([_round_corners(picture) for picture in pictures], GAP // 2, down=wide)
    width = max(row.width, SIDE)
    blocks = [_text(question, TITLE, INK, width, max_lines=4), row, _findings(instances, error, warnings, width)]
    if truth is not None:
        caption = "The image, the answer and the truth" + ("" if truth else ", which is that nothing is there")
        blocks.insert(2, _text(caption, SMALL, MUTED, width, max_lines=1))
    if think.strip():
        blocks.append(_quoted("Reasoning", think, width))
    if error is not None:
        blocks.append(_quoted("The answer as it was written", raw_text or "(nothing)", width))
    if looks:
        blocks += [_text("Looks at the mask", SMALL, MUTED, width, max_lines=1), _looks(image, looks, width)]
    return _sheet(blocks, width)


def _looks(image: Image.Image, looks: Sequence[Look], width: int) -> Image.Image:
    """Draw each mask that was looked at, with the points that the next was drawn from, and the words, row by row."""
    column = (width - (LOOKS - 1) * GAP // 2) // LOOKS
    height = max(1, round(image.height * column / image.width))
    cells = []
    for mask, points, said in looks:
        picture = resize(image, (column, height))
        draw_mask(picture, mask, color_of(0), 1.5)
        draw = ImageDraw.Draw(picture)
        for (x, y), label in points:
            at = (x + 0.5) * column / image.width, (y + 0.5) * height / image.height
            sign = "+" if label else "-"
            draw.text(at, sign, PAPER, font_for(sign, TITLE), anchor="mm", stroke_width=3, stroke_fill=INK)
        cells.append(_join([_round_corners(picture), _text(said, SMALL, INK, column, max_lines=4)], 6, down=True))
    rows = [_join(cells[first : first + LOOKS], GAP // 2, down=False) for first in range(0, len(cells), LOOKS)]
    return _join(rows, GAP // 2, down=True)


def draw_titled(title: str, image: Image.Image, draw: Callable[[Size], Image.Image]) -> Image.Image:
    """Draw the image, and beside it the picture that `draw` makes in a (width, height), under a title."""
    wide, size = _layout(image)
    row = _join([_round_corners(picture) for picture in (resize(image, size), draw(size))], GAP // 2, down=wide)
    width = max(row.width, SIDE)
    return _sheet([_text(title, TITLE, INK, width, max_lines=4), row], width)


def beside(sheets: Sequence[Image.Image]) -> Image.Image:
    """Join sheets in a row, aligned at the top."""
    return _join(sheets, 0, down=False)


def _layout(image: Image.Image) -> tuple[bool, Size]:
    """Whether the image is so wide that pictures lie one above the other, and their size."""
    wide = image.width > 2 * image.height
    times = min((2 * SIDE + GAP if wide else SIDE) / image.width, SIDE / image.height)
    return wide, (max(1, round(image.width * times)), max(1, round(image.height * times)))


def _sheet(blocks: Sequence[Image.Image], width: int) -> Image.Image:
    sheet = _join(blocks, GAP, down=True)
    panel = Image.new("RGB", (width + 2 * MARGIN, sheet.height + 2 * MARGIN), PAPER)
    panel.paste(sheet, (MARGIN, MARGIN))
    return panel


def _findings(instances: Sequence[Drawable], error: str | None, warnings: Sequence[str], width: int) -> Image.Image:
    """List the instances with colour and score, or explain why there are none."""
    rows = []
    if instances:
        rows.append(_text("Found · expected IoU", SMALL, MUTED, width, max_lines=1))
        rows.append(_chips(instances, width))
    if len(instances) > MAX_DRAWN:
        rows.append(_remark(CAUTION, f"Only the first {MAX_DRAWN} of {len(instances)} are drawn.", width))
    if not instances and error is None:
        rows.append(_remark(MUTED, "Nothing there: the answer is that no object matches.", width))
    if error is not None:
        rows.append(_remark(ALARM, f"The answer could not be read ({error}).", width))
    if warnings:
        rows.append(_remark(CAUTION, f"Left out of the answer: {', '.join(warnings)}.", width))
    return _join(rows, 6, down=True)


def _chips(instances: Sequence[Drawable], width: int) -> Image.Image:
    """Draw a dot in its colour, the number and the score for each instance that fits into one row."""
    font, step = font_for("0", TEXT), 118
    block = Image.new("RGB", (width, round(LINE * TEXT)), PAPER)
    draw, middle = ImageDraw.Draw(block), block.height / 2
    fitting = len(instances) if len(instances) * step <= width else (width - 200) // step
    for place, instance in enumerate(instances[:fitting]):
        left, number = place * step, instance.number or place + 1
        block.paste(color_of(number - 1), (left, round(middle - 8)), rounded(16, 16, 8))
        name, score = str(number), f"{instance.score:.2f}"
        draw.text((left + 24, middle), name, INK, font, anchor="lm")
        draw.text((left + 34 + font.getlength(name), middle), score, MUTED, font, anchor="lm")
    if fitting < len(instances):
        draw.text((fitting * step, middle), f"and {len(instances) - fitting} more", MUTED, font, anchor="lm")
    return block


def _remark(color: Color, text: str, width: int) -> Image.Image:
    """Write a line of text behind a coloured dot."""
    body = _text(text, TEXT, INK, width - 26, max_lines=2)
    block = Image.new("RGB", (width, body.height), PAPER)
    block.paste(color, (0, round(LINE * TEXT / 2 - 8)), rounded(16, 16, 8))
    block.paste(body, (26, 0))
    return block


def _quoted(title: str, text: str, width: int) -> Image.Image:
    """Write a small heading, and below it wrapped text with a rule at its left."""
    body = _text(text, TEXT, INK, width - 22, max_lines=24)
    ruled = Image.new("RGB", (width, body.height), PAPER)
    ruled.paste(RULE, (0, 0, 4, body.height))
    ruled.paste(body, (22, 0))
    return _join([_text(title, SMALL, MUTED, width, max_lines=1), ruled], 6, down=True)


def _text(text: str, size: int, ink: Color, width: int, max_lines: int) -> Image.Image:
    """Write wrapped text."""
    font, step = font_for(text, size), round(LINE * size)
    lines = wrap(text, font, width, max_lines)
    block = Image.new("RGB", (width, max(1, step * len(lines))), PAPER)
    draw = ImageDraw.Draw(block)
    for row, line in enumerate(lines):
        draw.text((0, row * step + step / 2), line, ink, font, anchor="lm")
    return block


def _round_corners(picture: Image.Image) -> Image.Image:
    sheet = Image.new("RGB", picture.size, PAPER)
    sheet.paste(picture, (0, 0), rounded(*picture.size, min(10.0, *(side / 2 for side in picture.size))))
    return sheet


def _join(blocks: Sequence[Image.Image], gap: int, down: bool) -> Image.Image:
    """Join blocks in a column or in a row."""
    widths, heights = [b.width for b in blocks], [b.height for b in blocks]
    gaps = gap * (len(blocks) - 1)
    size = (max(widths), sum(heights) + gaps) if down else (sum(widths) + gaps, max(heights))
    sheet = Image.new("RGB", size, PAPER)
    at = 0
    for block in blocks:
        sheet.paste(block, (0, at) if down else (at, 0))
        at += gap + (block.height if down else block.width)
    return sheet

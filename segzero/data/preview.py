"""A few samples to look at: image, truth and question as pictures, and all of them on one page.

>>> show("data/mine", "look", count=3)                                         # doctest: +SKIP
PosixPath('look/index.html')
"""

import math
from collections.abc import Iterable
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from segzero.data.check import samples_of
from segzero.errors import UserError
from segzero.frames import Size
from segzero.io import png_bytes, write_atomically
from segzero.masks import decode
from segzero.result import InstanceMask
from segzero.sample import Object, Sample
from segzero.viz.html import page, picture
from segzero.viz.overlay import draw_overlay, enlarge
from segzero.viz.panel import beside
from segzero.viz.text import font_for, wrap

SIDE = 560  # pixels, the longer side of one picture
LETTERS, MARGIN = 22, 14  # pixels


def show(folder: str | Path, out: str | Path, count: int = 9, seed: int = 0) -> Path:
    """Write a picture of each of `count` samples, drawn by `seed`, and a page of them; returns the page.

    Of a sample that can't be drawn, such as one whose image is absent, the page says why.
    """
    out = Path(out)
    chosen = draw_some((sample for _, _, sample in samples_of([folder])), count, seed)
    if not chosen:
        raise UserError(f"{folder} holds no samples; see docs/data.md")
    for number, sample in enumerate(chosen):
        try:
            drawn = png_bytes(panel(sample))
        except UserError:  # the page says why
            continue
        write_atomically(out / f"{number:03}.png", drawn)
    body = f"<h1>{len(chosen)} samples of {escape(str(folder))}</h1>" + "".join(map(entry, chosen))
    text = page(f"Samples of {folder}", body)
    return write_atomically(out / "index.html", text.encode("utf-8", "backslashreplace"))


def draw_some(samples: Iterable[Sample], count: int, seed: int) -> list[Sample]:
    """`count` of the samples in their order, each as likely as the other; no more than those are in memory."""
    rng = np.random.default_rng(seed)
    kept: dict[int, Sample] = {}
    for index, sample in enumerate(samples):
        if len(kept) < count:
            kept[index] = sample
        elif rng.random() < count / (index + 1):
            del kept[list(kept)[rng.integers(count)]]
            kept[index] = sample
    return list(kept.values())


def panel(sample: Sample) -> Image.Image:
    """The question above the image and the image with its truth; what is malformed is left away."""
    image = sample.open()
    times = SIDE / max(image.size)
    size = max(1, round(image.width * times)), max(1, round(image.height * times))
    founds = true_founds(sample, image.size)
    pictures = beside([enlarge(image, size), draw_overlay(image, founds, size)])
    font, step = font_for(sample.question, LETTERS), round(1.35 * LETTERS)
    lines = wrap(sample.question if founds else f"{sample.question} (nothing is there)", font, pictures.width - MARGIN)
    sheet = Image.new("RGB", (pictures.width, pictures.height + step * len(lines) + 2 * MARGIN), "white")
    for row, line in enumerate(lines):
        ImageDraw.Draw(sheet).text((MARGIN, MARGIN + row * step), line, (23, 27, 33), font)
    sheet.paste(pictures, (0, sheet.height - pictures.height))
    return sheet


def entry(sample: Sample) -> str:
    """The sample as a part of a page; of one that can't be drawn, why."""
    about = [sample.id, sample.split, sample.category, sample.concept, f"{len(sample.objects)} objects"]
    words = escape(" · ".join(part for part in about if part))
    earlier = "".join(f"<br>before: {escape(str(turn.get('question', '')))}" for turn in sample.turns)
    try:
        shown = picture(panel(sample))
    except UserError as error:
        shown = f"<p>{escape(sample.question)}: {escape(str(error))}</p>"
    return f"<p><small>{words}{earlier}</small></p>{shown}"


def true_founds(sample: Sample, size: Size) -> list[InstanceMask]:
    """The truth as the overlay draws it; what is malformed is left away."""
    return [found for true in sample.objects if (found := _found(true, size)) is not None]


def _found(true: Object, size: Size) -> InstanceMask | None:
    """The object as the overlay draws it; a box alone has a mask without pixels."""
    if not all(math.isfinite(v) for v in [*true.box, *(v for point in true.points for v in point)]):
        return None
    try:
        mask = np.zeros(size[::-1], bool) if true.rle is None else decode(true.rle, size)
    except UserError:
        return None
    return InstanceMask(mask, true.box, true.points)

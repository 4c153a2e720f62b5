"""Pictures of samples, with their true masks, on HTML pages.

>>> show("data/mine", "look", count=3)                                         # doctest: +SKIP
PosixPath('look/index.html')
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from segzero.data.check import DataReport, read_folders
from segzero.errors import UserError
from segzero.frames import Size
from segzero.io import png_bytes, write_atomically
from segzero.masks import decode
from segzero.result import InstanceMask
from segzero.sample import Object, Sample
from segzero.viz.html import page, picture
from segzero.viz.overlay import draw_overlay, resize
from segzero.viz.panel import beside
from segzero.viz.text import font_for, wrap

SIDE = 560  # longer side of an image and of its overlay, in pixels
LETTERS, MARGIN = 22, 14  # height of the question's letters and the space around it, in pixels
INK = (23, 27, 33)
SHOWN_WRONG = 4  # pictures per problem on the page of a report
SHOWN_RIGHT = 12  # pictures of samples with no problem on that page


def show(folder: str | Path, out: str | Path, count: int = 9, seed: int = 0) -> Path:
    """Write a picture of each of `count` random samples and a page of all of them; returns the page's path.

    If a sample can't be drawn, for example because its image is absent, the page says why.
    """
    out = Path(out)
    chosen = choose((sample for _, _, sample in read_folders([folder])), count, seed)
    if not chosen:
        raise UserError(f"{folder} holds no samples; see `segzero docs data`")
    for number, sample in enumerate(chosen):
        try:
            drawn = png_bytes(sample_panel(sample))
        except UserError:  # the page says why
            continue
        write_atomically(out / f"{number:03}.png", drawn)
    body = f"<h1>{len(chosen)} samples of {escape(str(folder))}</h1>" + "".join(map(sample_html, chosen))
    text = page(f"Samples of {folder}", body)
    return write_atomically(out / "index.html", text.encode("utf-8", "backslashreplace"))


def report_page(report: DataReport, folders: Sequence[str | Path], seed: int = 0) -> str:
    """HTML page of a report, with pictures of samples for each problem and of some samples without a problem.

    It reads the data once more, because a report holds ids alone.
    """
    shown_ids = {problem: list(dict.fromkeys(ids))[:SHOWN_WRONG] for problem, ids in report.wrong.items()}
    wanted = {id for ids in shown_ids.values() for id in ids}
    wrong = {id for ids in report.wrong.values() for id in ids}
    by_id: dict[str, Sample] = {}

    def right_samples() -> Iterator[Sample]:
        for _, _, sample in read_folders(folders):
            if sample.id in wanted:
                by_id.setdefault(sample.id, sample)
            if sample.id not in wrong:
                yield sample

    right = choose(right_samples(), SHOWN_RIGHT, seed)
    title = f"{', '.join(map(str, folders))}: {'nothing is' if report.ok else 'something is'} wrong"
    body = f"<h1>{escape(title)}</h1><pre>{escape(str(report))}</pre>"
    for problem, ids in sorted(shown_ids.items()):
        all_ids = report.wrong[problem]
        body += f"<h2>{escape(problem)} <small>({len(all_ids)} samples)</small></h2>"
        body += f"<details><summary>all ids</summary>{escape(' '.join(all_ids))}</details>"
        body += "".join(sample_html(by_id[id]) for id in ids)
    if right:
        body += "<h2>Some of the rest</h2>" + "".join(map(sample_html, right))
    return page(title, body)


def choose(samples: Iterable[Sample], count: int, seed: int) -> list[Sample]:
    """Choose `count` samples at random, in their order; no more than those are in memory."""
    rng = np.random.default_rng(seed)
    kept: dict[int, Sample] = {}
    for index, sample in enumerate(samples):
        if len(kept) < count:
            kept[index] = sample
        elif rng.random() < count / (index + 1):
            del kept[list(kept)[rng.integers(count)]]
            kept[index] = sample
    return list(kept.values())


def sample_panel(sample: Sample) -> Image.Image:
    """Draw the question above the image and its overlay with the true masks; malformed objects are left out."""
    image = sample.open()
    scale = SIDE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    truth = true_instances(sample, image.size)
    pictures = beside([resize(image, size), draw_overlay(image, truth, size)])
    font, step = font_for(sample.question, LETTERS), round(1.35 * LETTERS)
    lines = wrap(sample.question if truth else f"{sample.question} (nothing is there)", font, pictures.width - MARGIN)
    sheet = Image.new("RGB", (pictures.width, pictures.height + step * len(lines) + 2 * MARGIN), "white")
    for row, line in enumerate(lines):
        ImageDraw.Draw(sheet).text((MARGIN, MARGIN + row * step), line, INK, font)
    sheet.paste(pictures, (0, sheet.height - pictures.height))
    return sheet


def sample_html(sample: Sample) -> str:
    """HTML of a sample: its metadata, earlier questions and picture, or why it can't be drawn."""
    metadata = [sample.id, sample.split, sample.category, sample.concept, f"{len(sample.objects)} objects"]
    caption = escape(" · ".join(part for part in metadata if part))
    earlier = "".join(f"<br>before: {escape(str(turn.get('question', '')))}" for turn in sample.turns)
    try:
        shown = picture(sample_panel(sample))
    except UserError as error:
        shown = f"<p>{escape(sample.question)}: {escape(str(error))}</p>"
    return f"<p><small>{caption}{earlier}</small></p>{shown}"


def true_instances(sample: Sample, size: Size) -> list[InstanceMask]:
    """Masks of the true objects for drawing, at the image's size; malformed ones are left out."""
    return [instance for true in sample.objects if (instance := _instance(true, size)) is not None]


def _instance(true: Object, size: Size) -> InstanceMask | None:
    """The object with its mask; an object with a box alone gets a mask without pixels, and only its box is drawn."""
    if not all(math.isfinite(v) for v in [*true.box, *(v for point in true.points for v in point)]):
        return None
    try:
        mask = np.zeros(size[::-1], bool) if true.rle is None else decode(true.rle, size)
    except UserError:
        return None
    return InstanceMask(mask, true.box, true.points)

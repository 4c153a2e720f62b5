"""Everything mode over many images: find all masks of each, save them, count the failures."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segzero.batch_inference import RESERVED, Job
from segzero.errors import UserError, unknown_name
from segzero.images import load_image
from segzero.io import png_bytes, write_atomically, write_json
from segzero.masks import coco_annotation
from segzero.segmenter import Segmenter
from segzero.segmenter.edges import find_edges
from segzero.segmenter.everything import EverythingSettings, FoundMask, find_everything
from segzero.viz.everything import draw_everything, draw_everything_panel

FORMATS = ("panel", "overlay", "json", "coco")


@dataclass(frozen=True, eq=False)
class EverythingOutcome:
    """The masks of a job's image, or the one line that says why there are none."""

    job: Job
    found: list[FoundMask]
    problem: str | None = None


def check_formats(formats: tuple[str, ...]) -> None:
    """Refuse a format that nothing writes."""
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("format", name, list(FORMATS))


def run(
    segmenter: Segmenter,
    jobs: Iterable[Job],
    settings: EverythingSettings,
    folder: Path,
    formats: tuple[str, ...],
    max_pixels: int,
) -> Iterator[EverythingOutcome]:
    """Yield an outcome for every job, in order, once its files are written.

    `coco` is one file for the whole run, written at the end. A folder that can't be made ends the run at once.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from error
    done: list[tuple[str, tuple[int, int], list[FoundMask]]] = []
    for job in jobs:
        try:
            image = load_image(job.image, max_pixels=max_pixels)
            found = find_everything(segmenter, image, settings)
            _save(job, image, found, settings, folder, formats)
        except UserError as error:
            yield EverythingOutcome(job, [], str(error))
            continue
        if RESERVED in formats:
            done.append((str(job.image), image.size, found))
        yield EverythingOutcome(job, found)
    if RESERVED in formats:
        write_json(folder / f"{RESERVED}.json", coco_of_everything(done))


def run_edges(
    segmenter: Segmenter, jobs: Iterable[Job], settings: EverythingSettings, thin: bool, folder: Path, max_pixels: int
) -> Iterator[tuple[Job, Path | str]]:
    """Draw the edges of each job's image; yields the picture's path, or the one line that says why there is none."""
    for job in jobs:
        try:
            edges = find_edges(segmenter, load_image(job.image, max_pixels=max_pixels), settings, thin)
            picture = Image.fromarray((edges * 255).round().astype(np.uint8))
            yield job, write_atomically(folder / f"{job.name}_edges.png", png_bytes(picture))
        except UserError as error:
            yield job, str(error)


def coco_of_everything(rows: Iterable[tuple[str, tuple[int, int], list[FoundMask]]]) -> dict[str, Any]:
    """Make a COCO dataset of one category from rows of file name, (width, height) and masks."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (file_name, (width, height), found) in enumerate(rows, 1):
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for each in found:
            place = coco_annotation(each.box, each.rle)
            more = {"score": each.score, "stability": each.stability}
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": 1} | place | more)
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}


def _save(
    job: Job,
    image: Image.Image,
    found: list[FoundMask],
    settings: EverythingSettings,
    folder: Path,
    formats: tuple[str, ...],
) -> None:
    if "panel" in formats:
        write_atomically(folder / f"{job.name}_panel.png", png_bytes(draw_everything_panel(image, found)))
    if "overlay" in formats:
        write_atomically(folder / f"{job.name}_overlay.png", png_bytes(draw_everything(image, found)))
    if "json" in formats:
        size = {"width": image.width, "height": image.height}
        masks = [each.to_dict() for each in found]
        content = {"image": str(job.image), "size": size, "settings": asdict(settings), "masks": masks}
        write_json(folder / f"{job.name}.json", content)

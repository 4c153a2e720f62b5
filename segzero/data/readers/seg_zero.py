"""Reader of Seg-Zero's and VisionReasoner's published sets, from the hub, parquet files or `save_to_disk` folders.

Training sets: `id, problem, solution, image, img_height, img_width`. The images are stretched to 840x840 and the
solutions are in those pixels, so the Samples are too; the size before is `meta["original_size"]`. There are no masks.

Evaluation sets: `image, text, mask, image_id, ann_id, img_height, img_width`, some with `bbox`, `cat_id`, `count`, and
ReasonSeg-X with `reasoning_type`, which becomes the concept.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from segzero.data.readers.annotations import mask_object, xyxy
from segzero.data.readers.fields import Record, get, get_id, get_size, question
from segzero.data.readers.hub_rows import HubRow, image_of, rows
from segzero.data.readers.pictures import image_size
from segzero.errors import UserError
from segzero.frames import Size
from segzero.sample import Box, Object, Sample
from segzero.solution import parse_solution

SIZE = ("img_width", "img_height")
KIND = "reasoning_type"  # of a question, in ReasonSeg-X
ABOUT = ("image_id", "ann_id", "cat_id", "count")  # columns of an evaluation set that go into `meta`


def read_training(source: Any, split: str = "") -> Iterator[Record]:
    """Read a training set: `solution` is one object in tags, or a JSON list of bbox_2d and point_2d."""
    for where, part, number, row in rows(source, split, ("problem", "solution", "image"), (*SIZE, "id")):
        yield Record(where, partial(_training_samples, row, source, part, number))


def read_evaluation(source: Any, split: str = "") -> Iterator[Record]:
    """Read an evaluation set: one object per row, its whole mask; without masks (coco_val), one per `bbox`."""
    for where, part, number, row in rows(source, split, ("image", "text"), (*SIZE, "mask", "bbox", KIND, *ABOUT)):
        yield Record(where, partial(_evaluation_samples, row, source, part, number))


def _training_samples(row: HubRow, source: Any, split: str, number: int) -> list[Sample]:
    image, size = _image(row, source)
    objects = tuple(
        Object(xyxy(true.box, size), tuple(_inside(point, size) for point in true.points))
        for true in parse_solution(get(row, "solution", str))
    )
    meta: dict[str, Any] = {}
    if row.get("img_width") is not None:
        meta["original_size"] = list(get_size(row, *SIZE))
    if row.get("id") is not None:
        meta["id"] = get_id(row, "id")
    text = question(row["problem"])
    return [Sample(_id(split, number), image, text, *size, objects, split=split, source="seg_zero", meta=meta)]


def _evaluation_samples(row: HubRow, source: Any, split: str, number: int) -> list[Sample]:
    image, size = _image(row, source)
    if "img_width" in row and (listed := get_size(row, *SIZE)) != size:
        raise UserError(f"its image is {size[0]}x{size[1]}, its img_width and img_height say {listed[0]}x{listed[1]}")
    boxes = _boxes(row.get("bbox"), size)
    mask = row.mask("mask", size)
    if mask is not None:
        objects = mask_object(mask)
    elif boxes or row.get("count") is not None:
        objects = tuple(Object(box) for box in boxes)
    else:
        raise UserError("it has neither a mask, nor a bbox, nor a count")
    meta = {name: row[name] for name in ABOUT if row.get(name) is not None}
    if boxes:
        meta["boxes"] = [list(box) for box in boxes]
    text, concept = question(row["text"]), get(row, KIND, str, default="")
    return [
        Sample(
            _id(split, number),
            image,
            text,
            *size,
            objects,
            concept=concept,
            split=split,
            source="seg_zero_eval",
            meta=meta,
        )
    ]


def _image(row: HubRow, source: Any) -> tuple[str | bytes, Size]:
    """A row's image, as a Sample has it, and its (width, height)."""
    image = image_of(row, source)
    return (image if isinstance(image, bytes) else str(image)), image_size(image)


def _id(split: str, number: int) -> str:
    """Make a sample's id; `id` repeats in joined sets, and several texts ask for the same `ann_id`."""
    return f"{split or 'row'}-{number}"


def _boxes(value: Any, size: Size) -> list[Box]:
    """Read one box x0, y0, x1, y1, or a list of them."""
    nested = isinstance(value, np.ndarray) or (isinstance(value, list) and all(isinstance(v, list) for v in value))
    boxes = value if nested else [] if value is None else [value]
    return [xyxy(box, size) for box in boxes]


def _inside(point: tuple[float, ...], size: Size) -> tuple[float, float]:
    x, y = point
    if not (0 <= x <= size[0] and 0 <= y <= size[1]):
        raise UserError(f"the point [{x:g}, {y:g}] lies outside its image of {size[0]}x{size[1]}")
    return float(x), float(y)

"""Reader of ReasonSeg as LISA publishes it: NAME.jpg beside NAME.json, in folders train/, val/ and test/.

    {"text": ["..."], "is_sentence": true, "shapes": [{"label": "target", "points": [[x, y], ...]}, ...]}

Shapes are "target", "ignore" (pixels that are not scored) or "flag" (skipped). They are painted from the largest to the
smallest, edges included, so that a small one hides a part of a large one, as in the published loader.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from segzero.data.readers.annotations import mask_object, numbers
from segzero.data.readers.fields import Record, get, question, read_json
from segzero.data.readers.pictures import existing_folder, image_size, inside
from segzero.errors import UserError
from segzero.frames import Size
from segzero.masks import Mask, encode
from segzero.sample import Sample

SPLITS = ("train", "val", "test")
ENCODINGS = ("utf-8-sig", "cp1252")  # some of the published files are Windows text
TARGET, IGNORE = 1, 2
MAX_CORNERS = 100_000  # per image


def read_reason_seg(source: str | Path, split: str = "") -> Iterator[Record]:
    """Read a Sample of each text of an image, numbered in `meta["text"]`; published evaluation uses number 0 alone."""
    folder = existing_folder(source, "ReasonSeg data")
    parts = {part: folder / part for part in SPLITS if (folder / part).is_dir()} or {folder.name: folder}
    if split and split not in parts:
        raise UserError(f"{folder} has no split {split!r}; it has {', '.join(parts)}")
    for part, place in parts.items():
        if split in ("", part):
            files = sorted(place.glob("*.json"))
            if not files:
                raise UserError(f"{place} holds no .json files beside its images; check the path")
            for file in files:
                yield Record(str(file), partial(_samples, file, part))


def _samples(file: Path, split: str) -> list[Sample]:
    image = inside(file.parent, f"{file.stem}.jpg")
    width, height = size = image_size(image)
    annotation = read_json(file, ENCODINGS)
    targets, ignored = paint(annotation, size)
    objects = mask_object(targets)
    if not objects:
        raise UserError("none of its pixels is target")
    texts = get(annotation, "text", list, str)
    texts = [texts] if isinstance(texts, str) else texts
    if not texts:
        raise UserError("it has no text")
    is_sentence = get(annotation, "is_sentence", bool, default=False)
    return [
        Sample(
            f"{split}-{file.stem}-{number}",
            str(image),
            question(text),
            width,
            height,
            objects,
            ignore=encode(ignored) if ignored.any() else None,
            split=split,
            source="reason_seg",
            meta={"text": number, "is_sentence": is_sentence},
        )
        for number, text in enumerate(texts)
    ]


def paint(annotation: object, size: Size) -> tuple[Mask, Mask]:
    """Paint the mask of the target and that of the ignored pixels, for an image of that size."""
    layers = []  # area, TARGET or IGNORE, corners
    corners_left = MAX_CORNERS
    for shape in get(annotation, "shapes", list):
        label = get(shape, "label", str).lower()
        if label == "flag":
            continue
        corners = [_corner(point, size) for point in get(shape, "points", list)]
        corners_left -= len(corners)
        if len(corners) < 3 or corners_left < 0:
            raise UserError(f"a shape {label!r} has {len(corners)} corners; 3 to {MAX_CORNERS} per image are read")
        layer = Image.new("1", size)
        _draw(layer, corners, 1)
        layers.append((np.count_nonzero(np.asarray(layer)), IGNORE if "ignore" in label else TARGET, corners))
    canvas = Image.new("L", size)
    for _, value, corners in sorted(layers, key=lambda layer: -layer[0]):
        _draw(canvas, corners, value)
    painted = np.asarray(canvas)
    return painted == TARGET, painted == IGNORE


def _draw(canvas: Image.Image, corners: list[tuple[int, int]], value: int) -> None:
    """Fill a polygon and its outline; at most a few pixels in ten thousand differ from OpenCV's fillPoly."""
    draw = ImageDraw.Draw(canvas)
    draw.polygon(corners, fill=value)
    draw.line([*corners, corners[0]], fill=value)


def _corner(point: object, size: Size) -> tuple[int, int]:
    corner = numbers(point, "a corner")
    if len(corner) != 2 or not all(-side <= v <= 2 * side for v, side in zip(corner, size, strict=True)):
        raise UserError(f"a corner must be x, y within its image of {size[0]}x{size[1]}, or near it")
    return int(corner[0]), int(corner[1])

"""Reader of Label Studio's JSON export: each label of an image becomes a question, as with COCO's categories.

[{"id": 3, "data": {"image": "/data/upload/1/cat.jpg"}, "annotations": [{"result": [
    {"type": "polygonlabels", "original_width": 640, "original_height": 480,
     "value": {"points": [[x, y], ...], "polygonlabels": ["cat"]}},     x and y in percent of width and height
    {"type": "rectanglelabels", "value": {"x", "y", "width", "height", "rotation", "rectanglelabels"}, ...},
    {"type": "brushlabels", "value": {"format": "rle", "rle": [...], "brushlabels"}, ...}]}]}]
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from segzero.data.readers.annotations import coco_mask, numbers, rle_object, xyxy
from segzero.data.readers.fields import Record, get, get_id, get_size, question, read_json
from segzero.data.readers.pictures import image_folder, image_size, inside
from segzero.errors import UserError
from segzero.frames import Size
from segzero.masks import Mask, encode
from segzero.sample import Object, Sample

REGION_TYPES = ("polygonlabels", "rectanglelabels", "brushlabels")
CHANNELS = 4  # brush strokes are stored as an RGBA image, row by row


def read_label_studio(source: str | Path, images: str | Path = "") -> Iterator[Record]:
    """Read a Sample of each label in each image, from the first annotation that was not cancelled.

    `images` is the folder in which the last part of each image's URL is looked up, by default images/ beside the file,
    or the file's own folder.
    """
    file = Path(source)
    tasks = read_json(file)
    if not isinstance(tasks, list):
        raise UserError(f"{file} must hold a list of tasks: export as JSON, not JSON-MIN")
    root = image_folder(file, images)
    for number, task in enumerate(tasks):
        yield Record(f"{file}, task {number}", partial(_samples, task, root, file.stem))


def _samples(task: Any, root: Path, source: str) -> list[Sample]:
    task_id = get_id(task, "id")
    done = [a for a in get(task, "annotations", list) if not get(a, "was_cancelled", bool, default=False)]
    if not done:
        return []
    image = inside(root, _file_name(get(get(task, "data", dict), "image", str)))
    width, height = size = image_size(image)
    by_label: dict[str, list[Object]] = {}
    for region in get(done[0], "result", list):
        if get(region, "type", str) in REGION_TYPES:
            label, region_object = _region(region, size)
            by_label.setdefault(label, []).append(region_object)
    return [
        Sample(f"{task_id}-{label}", str(image), label, width, height, tuple(objects), category=label, source=source)
        for label, objects in by_label.items()
    ]


def _file_name(url: str) -> str:
    """The last part of the URL; that of a local file is /data/local-files/?d=folder/cat.jpg."""
    parts = urlsplit(url)
    return PurePosixPath(parse_qs(parts.query).get("d", [unquote(parts.path)])[0]).name


def _region(region: Any, size: Size) -> tuple[str, Object]:
    if get_size(region, "original_width", "original_height") != size:
        raise UserError("a region was drawn on an image of another size")
    kind, value = get(region, "type", str), get(region, "value", dict)
    labels = get(value, kind, list)
    if len(labels) != 1:
        raise UserError(f"a region has {len(labels)} labels; give it one")
    if kind == "rectanglelabels":
        if any(numbers([get(value, "rotation", int, float, default=0)], "a rotation")):
            raise UserError("a rectangle is rotated; draw it upright, or as a polygon")
        x, y, width, height = numbers([get(value, n, int, float) for n in ("x", "y", "width", "height")], "a box")
        (x0, y0), (x1, y1) = (_pixels(point, size) for point in ((x, y), (x + width, y + height)))
        return question(labels[0]), Object(xyxy([x0, y0, x1, y1], size))
    if kind == "polygonlabels":
        corners = [v for point in get(value, "points", list) for v in _pixels(numbers(point, "a corner"), size)]
        return question(labels[0]), rle_object(coco_mask([corners], size))
    return question(labels[0]), rle_object(encode(_brush(get(value, "rle", list), size)))


def _pixels(point: Any, size: Size) -> tuple[float, float]:
    if len(point) != 2:
        raise UserError(f"a corner must be x, y, not {len(point)} numbers")
    return point[0] * size[0] / 100, point[1] * size[1] / 100


def _brush(data: list, size: Size) -> Mask:
    """Decode a mask from Label Studio's run-length code, a stream of bits.

    The head: number of values (32 bits), bits per value - 1 (5), four possible widths of a length, each - 1 (4 each).
    Then runs until there are enough values: is it one repeated value? (1), index of the length's width (2), length - 1,
    and one value if repeated, otherwise as many values as the length.
    """
    if not all(isinstance(v, int) and 0 <= v < 256 for v in data):
        raise UserError("a brush's rle must be a list of bytes")
    width, height = size
    bits = "".join(f"{v:08b}" for v in data)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise UserError("a brush's rle ends too early")
        return int(bits[place - count : place], 2)

    total = take(32)
    if total != width * height * CHANNELS:
        raise UserError("a brush's rle is of another size than its image")
    value_bits = take(5) + 1
    length_bits = [take(4) + 1 for _ in range(4)]
    values = np.zeros(total, bool)
    filled = 0
    while filled < total:
        is_run = take(1)
        end = filled + 1 + take(length_bits[take(2)])
        if end > total:
            raise UserError("a brush's rle holds more values than its image has")
        values[filled:end] = take(value_bits) if is_run else [take(value_bits) for _ in range(filled, end)]
        filled = end
    return values.reshape(height, width, CHANNELS)[..., 3]

"""Export to Label Studio's JSON: a task per image, a label per question, brush strokes for masks.

Import tasks.json into a project with the labelling interface of label_config.xml and with local files served from this
folder. It can't express questions that nothing matches, ignored pixels, or a box that differs from its mask's.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from segzero.data.exports.pictures import Pictures
from segzero.errors import UserError
from segzero.frames import Size
from segzero.io import write_atomically, write_json
from segzero.masks import Mask, decode
from segzero.sample import Object, Sample

CHANNELS = 4  # values per pixel in a stroke
LENGTH_BITS = (3, 4, 8, 16)  # possible widths of a run's length


class LabelStudioExport:
    """Writer of images/, tasks.json and label_config.xml, which the reader "label_studio" reads."""

    def __init__(self, out: Path) -> None:
        self.out, self.pictures = out, Pictures(out / "images")
        self.tasks: dict[str, list[dict[str, Any]]] = {}  # file -> tasks, mostly one
        self.labels: dict[str, None] = {}

    def add(self, sample: Sample) -> None:
        """Add the objects as regions whose label is the question."""
        if sample.empty or sample.ignore is not None:
            missing = "questions with nothing there" if sample.empty else "ignored pixels"
            raise UserError(f"Label Studio has no {missing}")
        regions = [_region(true, sample.question, sample.size) for true in sample.objects]
        name = self.pictures.add(sample)
        self.labels[sample.question] = None
        result = self._task(name, sample.question)["annotations"][0]["result"]
        for region in regions:
            result.append(region | {"id": f"r{len(result)}"})

    def finish(self) -> None:
        """Write the tasks, and the labelling interface with their labels."""
        tasks = [task for tasks in self.tasks.values() for task in tasks]
        write_json(self.out / "tasks.json", [task | {"id": number} for number, task in enumerate(tasks, 1)])
        labels = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in self.labels)
        config = (
            f'<View>\n  <Image name="image" value="$image"/>\n'
            f'  <BrushLabels name="mask" toName="image">\n{labels}  </BrushLabels>\n'
            f'  <RectangleLabels name="box" toName="image">\n{labels}  </RectangleLabels>\n</View>\n'
        )
        write_atomically(self.out / "label_config.xml", config.encode("utf-8", "backslashreplace"))

    def _task(self, name: str, label: str) -> dict[str, Any]:
        """The image's task, or another one for the same image if this one has the same label already."""
        tasks = self.tasks.setdefault(name, [])
        for task in tasks:
            if not any(label in _labels(region) for region in task["annotations"][0]["result"]):
                return task
        address = f"/data/local-files/?d=images/{quote(name)}"
        tasks.append({"data": {"image": address}, "annotations": [{"was_cancelled": False, "result": []}]})
        return tasks[-1]


def _labels(region: dict[str, Any]) -> list[str]:
    return region["value"][region["type"]]


def _region(true: Object, label: str, size: Size) -> dict[str, Any]:
    common = {"to_name": "image", "original_width": size[0], "original_height": size[1], "image_rotation": 0}
    if true.rle is not None:
        value: dict[str, Any] = {"format": "rle", "rle": brush(decode(true.rle, size)), "brushlabels": [label]}
        return common | {"type": "brushlabels", "from_name": "mask", "value": value}
    x0, y0, x1, y1 = (100 * v / side for v, side in zip(true.box, (*size, *size), strict=True))
    value = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rotation": 0, "rectanglelabels": [label]}
    return common | {"type": "rectanglelabels", "from_name": "box", "value": value}


def brush(mask: Mask) -> list[int]:
    """Encode a mask in Label Studio's run-length code, which segzero.data.readers.label_studio describes."""
    flat = mask.ravel()
    edges = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), len(flat)]
    bits = [f"{len(flat) * CHANNELS:032b}{8 - 1:05b}", *(f"{width - 1:04b}" for width in LENGTH_BITS)]
    for start, end in pairwise(edges):
        left = (end - start) * CHANNELS
        while left:
            length = min(left, 1 << LENGTH_BITS[-1])
            width_index = next(i for i, width in enumerate(LENGTH_BITS) if length <= 1 << width)
            value = 255 if flat[start] else 0
            bits.append(f"1{width_index:02b}{length - 1:0{LENGTH_BITS[width_index]}b}{value:08b}")
            left -= length
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))

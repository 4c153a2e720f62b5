"""What came of a question: masks, boxes, points and the reasoning, to look at, to save and to hand on.

>>> result = pipeline(["street.jpg"], ["what keeps the rain off"])[0]            # doctest: +SKIP
>>> result.union.sum(), result.instances[0].score
(18230, 0.93)
>>> result.plot().show()
>>> result.save("out", "street")["panel"]
PosixPath('out/street_panel.png')
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segzero.errors import UserError, unknown_name
from segzero.io import finite_or_zero, png_bytes, write_atomically
from segzero.masks import coco_annotation, encode, mask_png
from segzero.viz.overlay import Drawable, draw_overlay
from segzero.viz.panel import draw_panel

if TYPE_CHECKING:
    from supervision import Detections

FILES = {  # format -> what follows the name
    "panel": "_panel.png",
    "mask": "_mask.png",
    "overlay": "_overlay.png",
    "json": ".json",
    "coco": "_coco.json",
}
FORMATS = tuple(FILES)


@dataclass(frozen=True, eq=False)
class InstanceMask:
    """One object: what the policy pointed at and the mask that the segmenter drew there, in original pixels."""

    mask: NDArray[np.bool_] = field(repr=False)  # [H, W]
    box: tuple[float, float, float, float]  # x0, y0, x1, y1
    points: tuple[tuple[float, float], ...] = ()
    score: float = 0.0  # the IoU that the segmenter expects of its mask
    number: int | None = None  # in a dialogue: the instance's own, which it keeps wherever it is drawn


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The answer to one question about one image.

    No instances and no error means that nothing is there; an error means that the answer could not be read.
    """

    image: Image.Image = field(repr=False)  # RGB, original size
    question: str
    instances: tuple[InstanceMask, ...] = ()
    think: str = ""
    raw_text: str = field(default="", repr=False)
    error: str | None = None  # one of segzero.answer.ERRORS
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)  # seconds

    def __post_init__(self) -> None:
        size = (self.image.height, self.image.width)
        assert all(found.mask.shape == size for found in self.instances), "masks have the image's height and width"

    @property
    def empty(self) -> bool:
        """True when the policy said that nothing is there; not when its answer could not be read."""
        return not self.instances and self.error is None

    @property
    def union(self) -> NDArray[np.bool_]:
        """Everything that was found, as one mask [H, W]."""
        together = np.zeros((self.image.height, self.image.width), bool)
        for found in self.instances:
            together |= found.mask
        return together

    def plot(self) -> Image.Image:
        """The image with masks, boxes and points on it, one colour an instance; small images are enlarged."""
        return draw_overlay(self.image, self.instances)

    def panel(self, truth: Sequence[Drawable] | None = None) -> Image.Image:
        """A picture to show around: the question, the image, the overlay beside it and the reasoning below.

        `truth`, the objects that are there, gets a picture of its own.
        """
        return draw_panel(
            self.image,
            self.question,
            self.instances,
            think=self.think,
            error=self.error,
            raw_text=self.raw_text,
            warnings=self.warnings,
            truth=truth,
        )

    def save(self, folder: str | Path, name: str = "result", formats: Sequence[str] = FORMATS) -> dict[str, Path]:
        """Write the files asked for, each whole or not at all, and say where they are.

        `mask` is the union in original size, 0 and 255; `json` holds everything else.
        """
        if not name or Path(name).name != name:
            raise UserError(f"cannot save under the name {name!r}: it must be a plain file name, without a folder")
        for format in formats:
            if format not in FILES:
                raise unknown_name("format", format, list(FORMATS))
        paths = {format: Path(folder) / f"{name}{FILES[format]}" for format in formats}
        for format, path in paths.items():
            write_atomically(path, self._file(format, name))
        return paths

    def _file(self, format: str, name: str) -> bytes:
        if format == "json":
            return self.to_json().encode("utf-8", "backslashreplace")  # a lone surrogate becomes JSON's \udxxx
        if format == "coco":
            return _json(coco_dataset([(name, self)])).encode("utf-8", "backslashreplace")
        if format == "mask":
            return mask_png(self.union)
        return png_bytes(self.panel() if format == "panel" else self.plot())

    def to_dict(self) -> dict[str, Any]:
        """Everything but the image, in plain types for JSON; masks as COCO RLE."""
        return {
            "question": self.question,
            "size": {"width": self.image.width, "height": self.image.height},
            "error": self.error,
            "warnings": list(self.warnings),
            "think": self.think,
            "raw_text": self.raw_text,
            "instances": [
                {
                    "box": [float(v) for v in found.box],
                    "points": [[float(v) for v in point] for point in found.points],
                    "score": finite_or_zero(found.score),
                    "rle": encode(found.mask),
                }
                for found in self.instances
            ],
            "timings": dict(self.timings),
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return _json(self.to_dict())

    def to_coco(self, image_id: int = 1, category_id: int = 1, first_id: int = 1) -> list[dict[str, Any]]:
        """COCO annotations, one an instance; they carry a score, so that they serve as COCO results too.

        `bbox` is the policy's box, `area` and `segmentation` are the mask's.
        """
        return [
            {"id": number, "image_id": image_id, "category_id": category_id}
            | coco_annotation(found.box, encode(found.mask))
            | {"score": finite_or_zero(found.score)}
            for number, found in enumerate(self.instances, first_id)
        ]

    def to_supervision(self) -> "Detections":
        """`supervision.Detections`, with the points in `data["points"]` and the question as the class's name."""
        try:
            from supervision import Detections
        except ImportError as error:
            raise UserError("supervision is not installed; pip install supervision") from error
        count, size = len(self.instances), (self.image.height, self.image.width)
        points = np.empty(count, object)
        points[:] = [found.points for found in self.instances]
        return Detections(
            xyxy=np.array([found.box for found in self.instances], np.float32).reshape(count, 4),
            mask=np.array([found.mask for found in self.instances], bool).reshape(count, *size),
            confidence=np.array([found.score for found in self.instances], np.float32),
            class_id=np.zeros(count, int),
            data={"class_name": np.array([self.question] * count, dtype=str), "points": points},
        )


def coco_dataset(results: Iterable[tuple[str, Segmentation]]) -> dict[str, Any]:
    """A whole COCO file from (file name, result) pairs; each question is a category of its own."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for image_id, (file_name, result) in enumerate(results, 1):
        width, height = result.image.size
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        category = categories.setdefault(result.question, len(categories) + 1)
        annotations += result.to_coco(image_id, category, first_id=len(annotations) + 1)
    named = [{"id": number, "name": question} for question, number in categories.items()]
    return {"images": images, "annotations": annotations, "categories": named}


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)

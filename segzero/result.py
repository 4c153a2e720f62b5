"""Results: the masks, boxes, points and reasoning that answer a question, to view, to save and to convert.

>>> result = pipeline(["street.jpg"], ["what keeps the rain off"])[0]            # doctest: +SKIP
>>> [instance.score for instance in result.filter(score=0.5)]
[0.93]
>>> result.union.sum()
18230
>>> result.plot().show()
>>> result.save("out", "street")["panel"]
PosixPath('out/street_panel.png')
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segzero.errors import UserError, unknown_name
from segzero.io import finite_or_zero, png_bytes, write_atomically
from segzero.masks import coco_annotation, decode, encode, mask_png
from segzero.viz.overlay import Drawable, draw_overlay
from segzero.viz.panel import draw_panel

if TYPE_CHECKING:
    from supervision import Detections

FILES = {  # format -> end of the file name
    "panel": "_panel.png",
    "mask": "_mask.png",
    "overlay": "_overlay.png",
    "json": ".json",
    "coco": "_coco.json",
}
FORMATS = tuple(FILES)
LOOK_ACTIONS = ("keep", "correct", "nothing", "unreadable")  # of a look at a mask
MOST_LOOKS = 8  # of a policy at its mask; the published agents take 3


@dataclass(frozen=True, eq=False)
class InstanceMask:
    """An object found in an image: where the policy pointed, and the mask that the segmenter predicted there.

    Attributes:
        mask: bool array [H, W] of the image's height and width.
        box: the policy's box x0, y0, x1, y1, floats in pixels of the original image.
        points: the policy's points (x, y) inside the object, floats in pixels of the original image.
        score: IoU that the segmenter expects of its mask, 0 to 1.
        number: in a dialogue the instance's own number, which it keeps in every picture; else None.
    """

    mask: NDArray[np.bool_] = field(repr=False)
    box: tuple[float, float, float, float]
    points: tuple[tuple[float, float], ...] = ()
    score: float = 0.0
    number: int | None = None


@dataclass(frozen=True, eq=False)
class RefinementStep:
    """One look of the policy at its mask (segzero.refinement).

    Attributes:
        action: keep, correct, nothing (no object matches), or unreadable; after all but the second the looking ends.
        mask: bool array [H, W], the mask that was looked at.
        points: what the next mask was drawn from, of objects or to amend this one; floats in pixels of the image.
        labels: of each point: 1 inside the object, 0 outside.
        think: the policy's reasoning.
        error: None, or why the answer could not be read, one of `segzero.answer.ERRORS`.
    """

    action: str
    mask: NDArray[np.bool_] = field(repr=False)
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    think: str = ""
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert into plain types for JSON."""
        points = [[float(v) for v in point] for point in self.points]
        said = {"action": self.action, "points": points, "labels": list(self.labels)}
        return {**said, "think": self.think, "error": self.error, "rle": encode(self.mask)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], size: tuple[int, int]) -> "RefinementStep":
        """Restore what `to_dict` made, for an image of that (width, height); a KeyError, or the like, if it is not."""
        points = tuple((float(x), float(y)) for x, y in value["points"])
        labels, error = tuple(int(label) for label in value["labels"]), value["error"]
        mask = decode(value["rle"], size)
        return cls(str(value["action"]), mask, points, labels, str(value["think"]), error and str(error))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The answer to one question about one image; `len`, iteration and `filter` are over its instances.

    No instances and no error means that nothing is there; an error means that the answer could not be read.

    Attributes:
        image: RGB, in its original size.
        question: as it was asked.
        instances: the objects found, in the order of the policy's answer.
        think: the policy's reasoning.
        raw_text: the policy's text as it was generated.
        error: None, or one of `segzero.answer.ERRORS`; of a program that failed, `program_error`.
        problem: the error in words, where its code says too little.
        warnings: objects that were left out of the answer and why, each one of `segzero.answer.ERRORS`.
        timings: seconds by part of the pipeline.
        presence: how surely what was asked for is in the picture, 0 to 1; None where the models don't say.
        rejected: None, or whether the model finds nothing, and the instance is what it would have drawn otherwise.
        steps: looks of the policy at its own mask, in order; none where masks are not refined.
        undivided: the one instance is everything that was asked for, not told apart, and its box is the mask's own.
    """

    image: Image.Image = field(repr=False)
    question: str
    instances: tuple[InstanceMask, ...] = ()
    think: str = ""
    raw_text: str = field(default="", repr=False)
    error: str | None = None
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    undivided: bool = False
    rejected: bool | None = None
    presence: float | None = field(default=None, repr=False)
    problem: str = ""
    steps: tuple[RefinementStep, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        size = (self.image.height, self.image.width)
        assert all(instance.mask.shape == size for instance in self), "masks have the image's height and width"

    def __len__(self) -> int:
        return len(self.instances)

    def __bool__(self) -> bool:
        return True  # a result without instances is an answer, too

    def __iter__(self) -> Iterator[InstanceMask]:
        return iter(self.instances)

    def filter(self, score: float) -> "Segmentation":
        """Copy the result with only those instances whose score is at least `score`."""
        return replace(self, instances=tuple(instance for instance in self if instance.score >= score))

    @property
    def empty(self) -> bool:
        """True if the answer is that nothing is there; False if it could not be read."""
        return not self.instances and self.error is None

    @property
    def union(self) -> NDArray[np.bool_]:
        """Union of all instances' masks, bool [H, W]."""
        union = np.zeros((self.image.height, self.image.width), bool)
        for instance in self:
            union |= instance.mask
        return union

    def plot(self) -> Image.Image:
        """Draw masks, boxes and points on the image, one colour per instance; small images are enlarged."""
        return draw_overlay(self.image, self.instances, boxes=not self.undivided)

    def panel(self, truth: Sequence[Drawable] | None = None) -> Image.Image:
        """Draw a sheet with the question, the image, the overlay beside it and the reasoning below.

        `truth`, the true objects, get a picture of their own.
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
            boxes=not self.undivided,
            looks=[(step.mask, list(zip(step.points, step.labels, strict=True)), _said(step)) for step in self.steps],
        )

    def save(self, folder: str | Path, name: str = "result", formats: Sequence[str] = FORMATS) -> dict[str, Path]:
        """Write files in these formats, each whole or not at all, and return their paths.

        `mask` is the union in original size, 0 and 255; `json` has everything else.
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
        """Convert everything but the image into plain types for JSON; masks become COCO RLE."""
        return {
            "question": self.question,
            "size": {"width": self.image.width, "height": self.image.height},
            "error": self.error,
            "warnings": list(self.warnings),
            "think": self.think,
            "raw_text": self.raw_text,
            "instances": [
                {
                    "box": [float(v) for v in instance.box],
                    "points": [[float(v) for v in point] for point in instance.points],
                    "score": finite_or_zero(instance.score),
                    "rle": encode(instance.mask),
                }
                for instance in self
            ],
            "timings": dict(self.timings),
            "undivided": self.undivided,
            **({} if self.presence is None else {"presence": finite_or_zero(self.presence)}),
            **({"steps": [step.to_dict() for step in self.steps]} if self.steps else {}),
        }

    def to_json(self) -> str:
        """Convert `to_dict` into JSON text."""
        return _json(self.to_dict())

    def to_coco(self, image_id: int = 1, category_id: int = 1, first_id: int = 1) -> list[dict[str, Any]]:
        """Make COCO annotations, one per instance; with their scores they serve as COCO results too.

        `bbox` is the policy's box, `area` and `segmentation` are the mask's.
        """
        return [
            {"id": number, "image_id": image_id, "category_id": category_id}
            | coco_annotation(instance.box, encode(instance.mask))
            | {"score": finite_or_zero(instance.score)}
            for number, instance in enumerate(self, first_id)
        ]

    def to_supervision(self) -> "Detections":
        """Convert into `supervision.Detections`: points in `data["points"]`, the question as the name of the class."""
        try:
            from supervision import Detections
        except ImportError as error:
            raise UserError("supervision is not installed; pip install supervision") from error
        count, size = len(self.instances), (self.image.height, self.image.width)
        points = np.empty(count, object)
        points[:] = [instance.points for instance in self]
        return Detections(
            xyxy=np.array([instance.box for instance in self], np.float32).reshape(count, 4),
            mask=np.array([instance.mask for instance in self], bool).reshape(count, *size),
            confidence=np.array([instance.score for instance in self], np.float32),
            class_id=np.zeros(count, int),
            data={"class_name": np.array([self.question] * count, dtype=str), "points": points},
        )


def _said(step: RefinementStep) -> str:
    """The action of a look, with the thought before it."""
    said = step.action if step.error is None else f"{step.action} ({step.error})"
    return f"{said}: {step.think}" if step.think else said


def coco_dataset(results: Iterable[tuple[str, Segmentation]]) -> dict[str, Any]:
    """Make a COCO dataset from pairs of file name and result; each question is a category of its own."""
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

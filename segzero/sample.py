"""Samples: one image, one question and the truth, in pixels of the original image; the schema of all data.

>>> sample = Sample("s1", "cat.jpg", "the cat", 640, 480, objects=(Object(box=(10, 20, 200, 300)),))
>>> sample.empty
False
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from segzero.masks import RLE, union

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Object:
    """One true object, in pixels of the original image."""

    box: Box  # x0, y0, x1, y1
    points: tuple[Point, ...] = ()  # inside the object, the safest first
    rle: RLE | None = None  # COCO RLE of its mask


def object_key(instance: Object) -> tuple[Box, str | bytes | list[int]]:
    """A key that two annotations of the same object share: its box and its mask."""
    return instance.box, instance.rle["counts"] if instance.rle else ""


@dataclass(frozen=True)
class Sample:
    """A question about an image with its true objects; no objects means that nothing matches."""

    id: str
    image: str | bytes  # a path, or the encoded file itself
    question: str
    width: int
    height: int
    objects: tuple[Object, ...] = ()
    ignore: RLE | None = None  # pixels that count neither for nor against
    category: str = ""
    concept: str = ""
    split: str = ""
    source: str = ""
    turns: tuple[dict[str, Any], ...] = ()  # earlier rounds of a dialogue
    meta: dict[str, Any] = field(default_factory=dict)  # anything JSON can hold
    current_mask: RLE | None = None  # a mask that the policy is shown, to keep or to correct (segzero.refinement)

    @property
    def empty(self) -> bool:
        """True if the right answer is that nothing is there."""
        return not self.objects

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the original image."""
        return self.width, self.height

    @property
    def turn(self) -> dict[str, Any]:
        """Description of this round for the `turns` of later rounds."""
        return {
            "question": self.question,
            "boxes": [list(o.box) for o in self.objects],
            "points": [[list(point) for point in o.points] for o in self.objects],
            "masks": [o.rle for o in self.objects],
        }

    def mask(self) -> RLE | None:
        """Union of the objects' masks, or None if an object has no mask."""
        rles = [o.rle for o in self.objects if o.rle is not None]
        return union(rles, (self.width, self.height)) if len(rles) == len(self.objects) else None

    def open(self) -> Image.Image:
        """Load the image, upright, as RGB."""
        from segzero.images import load_image

        return load_image(
            self.image, name=f"the image of sample {self.id!r}" if isinstance(self.image, bytes) else None
        )


def with_turns(rounds: Iterable[Sample]) -> list[Sample]:
    """Give each round of a dialogue the rounds before it, in `turns`."""
    samples: list[Sample] = []
    turns: list[dict[str, Any]] = []
    for sample in rounds:
        samples.append(replace(sample, turns=tuple(turns)))
        turns.append(sample.turn)
    return samples

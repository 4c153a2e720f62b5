"""Samples and answers on an image of ten pixels in a row, so that a mask can be read: # is inside."""

import numpy as np

from segzero.evaluation.scoring import PredictedObject
from segzero.masks import RLE, box_of, encode
from segzero.sample import Object, Sample


def rle(pixels: str) -> RLE:
    return encode(np.array([[c == "#" for c in pixels]]))


def sample(*objects: str, ignore: str = "", id: str = "s", **fields) -> Sample:
    """A sample whose true objects are these rows of pixels."""
    true = tuple(Object(box_of([[c == "#" for c in pixels]]), rle=rle(pixels)) for pixels in objects)
    ignored = rle(ignore) if ignore else None
    return Sample(id, "row.png", "the row", 10, 1, true, ignore=ignored, **fields)


def predicted(pixels: str, box: tuple[float, ...] | None = None, score: float = 0.5) -> PredictedObject:
    """A predicted object with these pixels, and the box around them unless another is given."""
    around = box_of([[c == "#" for c in pixels]]) or (0.0, 0.0, 1.0, 1.0)
    return PredictedObject(box or around, rle(pixels), score=score)

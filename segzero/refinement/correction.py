"""The one way from an action and the current mask to a new mask: points with labels, and the mask, for the segmenter.

>>> from segzero.answer import MaskAction
>>> from segzero.frames import stretch
>>> current = np.zeros((80, 100), bool)
>>> current[20:60, 10:50] = True
>>> corrected = MaskCorrection.of(MaskAction(positive=(504, 420)), encode(current), stretch(840), (100, 80))
>>> corrected.points, corrected.labels
(((60.0, 40.0),), (1,))
"""

from dataclasses import dataclass

import numpy as np

from segzero.answer import MaskAction
from segzero.frames import Frame, Size, clip_point
from segzero.masks import RLE, Mask, Point, decode, encode, points_of
from segzero.segmenter.protocol import MaskPrompt, as_logits


@dataclass(frozen=True, eq=False)
class MaskCorrection:
    """A mask with the points that correct it, in pixels of the image; small enough to be sent to another process."""

    current: RLE
    points: tuple[Point, ...]
    labels: tuple[int, ...]  # 1 inside, 0 outside

    @classmethod
    def of(cls, action: MaskAction, current: RLE, frame: Frame, size: Size) -> "MaskCorrection":
        """Take the points of a policy's action out of its frame; those beyond the image are moved to its edge."""
        assert action.points, "an action that keeps the mask draws nothing"
        points = tuple(clip_point(frame.to_pixels(point, size), size) for point in action.points)
        return cls(current, points, action.labels)

    def prompt(self, grid: tuple[int, ...]) -> MaskPrompt:
        """The segmenter's prompt, with the mask as logits of its grid (height, width).

        SAM2 draws nothing useful from points outside the object alone, so that such a correction gets a point of the
        mask beside them.
        """
        mask = decode(self.current)
        points, labels = self.points, self.labels
        if 1 not in labels and mask.any():
            points, labels = (anchor(mask, points[0]), *points), (1, *labels)
        height, width = grid
        return MaskPrompt(None, points, labels, as_logits(mask, (height, width)) if mask.any() else None)


def anchor(mask: Mask, negative: Point) -> Point:
    """The safest point of that half of a mask which lies farther from a point that is not the object's."""
    rows, columns = np.nonzero(mask)
    distance = np.hypot(columns - negative[0], rows - negative[1])
    far = distance >= np.median(distance)
    rest = np.zeros_like(mask)
    rest[rows[far], columns[far]] = True
    return points_of(rest)[0]


def empty_mask(size: Size) -> RLE:
    """The mask without pixels of an image of (width, height)."""
    return encode(np.zeros((size[1], size[0]), bool))

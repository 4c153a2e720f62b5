"""The one way from a policy's answer about a mask to a new mask: objects drawn anew, or points that amend the mask.

Whether an answer keeps its mask can follow from its objects: a policy that finds the same thing again, with the mask
before its eyes, need not judge it in words.

>>> from segzero.answer import MaskAction
>>> from segzero.frames import stretch
>>> from segzero.masks import encode
>>> current = np.zeros((80, 100), bool)
>>> current[20:60, 10:50] = True
>>> [amended] = correction_prompts(
...     Answer(action=MaskAction(positive=(504, 420))), encode(current), stretch(840), (100, 80)
... )
>>> amended.points, amended.labels
(((60.0, 40.0),), (1,))
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rewards.refinement import keeps
from segzero.answer import Answer, MaskAction
from segzero.frames import Frame, Size, clip_point
from segzero.masks import RLE, Mask, Point, decode, points_of, union
from segzero.pipeline import in_pixels
from segzero.segmenter.protocol import MaskPrompt, as_logits


@dataclass(frozen=True, eq=False)
class MaskCorrection:
    """A mask with the points that amend it, in pixels of the image; small enough to be sent to another process."""

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


Correction = MaskPrompt | MaskCorrection  # an object drawn anew, or a mask amended


def correction_prompts(answer: Answer, current: RLE, frame: Frame, size: Size) -> list[Correction]:
    """Make the prompts of what an answer about the current mask draws; none where it keeps the mask, or finds nothing.

    Objects replace the mask: as an answer to the plain question would, they are drawn without it.
    """
    if answer.action is not None:
        return [] if answer.keeps else [MaskCorrection.of(answer.action, current, frame, size)]
    return [MaskPrompt(*in_pixels(instance, frame, size)) for instance in answer.instances]


def labelled_points(prompt: Correction) -> list[tuple[Point, int]]:
    """The points of a prompt, each with its label: 1 inside, 0 outside."""
    return list(zip(prompt.points, prompt.labels or [1] * len(prompt.points), strict=True))


def settled(answer: Answer, drawn: Sequence[RLE], current: RLE, size: Size) -> Answer:
    """The answer, or one that keeps the current mask where it draws that again (`rewards.refinement.keeps`).

    >>> from segzero.answer import Instance
    >>> from segzero.masks import encode
    >>> again = Answer("the cat", (Instance((0, 0, 420, 420)),))
    >>> mask = encode(np.tri(100, dtype=bool))
    >>> settled(again, [mask], mask, (100, 100)).keeps, settled(again, [], mask, (100, 100)).keeps
    (True, False)
    """
    if keeps(answer, union(drawn, size), current):
        return replace(answer, instances=(), action=MaskAction())
    return answer


def anchor(mask: Mask, negative: Point) -> Point:
    """The safest point of that half of a mask which lies farther from a point that is not the object's."""
    rows, columns = np.nonzero(mask)
    distance = np.hypot(columns - negative[0], rows - negative[1])
    far = distance >= np.median(distance)
    rest = np.zeros_like(mask)
    rest[rows[far], columns[far]] = True
    return points_of(rest)[0]

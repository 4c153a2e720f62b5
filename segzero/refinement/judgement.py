"""The right answer about a mask: keep it, correct it where it errs most, or say that nothing is there.

>>> import numpy as np
>>> from segzero.masks import encode
>>> from segzero.sample import Object
>>> true = np.zeros((80, 100), bool)
>>> true[20:60, 10:50] = True
>>> half = encode(true & (np.arange(100) < 30))
>>> cat = Object((10, 20, 50, 60), rle=encode(true))
>>> sample = Sample("s", "cat.jpg", "the cat", 100, 80, (cat,), current_mask=half)
>>> right_action(sample)
MaskAction(positive=(39.0, 29.0), negative=None)
"""

from rewards.refinement import good_enough
from segzero.answer import Answer, MaskAction, render_answer
from segzero.errors import UserError
from segzero.frames import Frame
from segzero.masks import Mask, Point, box_of, decode, points_of
from segzero.sample import Sample

NOTABLE = 0.15  # least share of the true area that is worth a point


def right_action(sample: Sample) -> MaskAction | None:
    """The action, in pixels of the image, that a sample with a current mask asks for; None where nothing is there.

    There is always a positive point, in what is missing or else in the whole: SAM2 draws best from one.
    """
    true, current = masks_of(sample)
    ignore = decode(sample.ignore, sample.size) if sample.ignore is not None else None
    if not true.any():
        return None
    if good_enough(current, true, ignore):
        return MaskAction()
    missing, excess = true & ~current, current & ~true
    least = NOTABLE * true.sum()
    positive = points_of(missing if missing.sum() >= least else true)[0]
    return MaskAction(positive, points_of(excess)[0] if excess.sum() >= least else None)


def right_answer(sample: Sample, frame: Frame, think: str) -> str:
    """Write the right answer about a sample's current mask as a policy would, after a thought about the question.

    The thought goes on with the box of what is wanted and that of the mask, which a policy can compare.
    """
    action = right_action(sample)
    wanted, shown = (_box_in_frame(mask, sample, frame) for mask in masks_of(sample))
    think = f"{think}{wanted and f' {wanted}'}; mask {shown or 'empty'}"
    if action is None:
        return render_answer(Answer(f"{think}; none"), "refine")
    placed = MaskAction(
        _in_frame(action.positive, sample, frame),
        _in_frame(action.negative, sample, frame),
    )
    return render_answer(Answer(f"{think}; {'right' if action.keeps else 'wrong'}", action=placed), "refine")


def _box_in_frame(mask: Mask, sample: Sample, frame: Frame) -> str:
    """The tightest box of a mask in the frame's whole numbers; empty for an empty mask."""
    box = box_of(mask)
    return "" if box is None else str(frame.to_frame(box, sample.size)).replace(" ", "")


def _in_frame(point: Point | None, sample: Sample, frame: Frame) -> Point | None:
    if point is None:
        return None
    x, y = frame.to_frame(point, sample.size)
    return float(x), float(y)


def masks_of(sample: Sample) -> tuple[Mask, Mask]:
    """The true mask and the current one [H, W] of a sample that has both."""
    true = sample.mask()
    if true is None or sample.current_mask is None:
        raise UserError(f"sample {sample.id!r}: a mask can only be judged where all true objects have one")
    return decode(true, sample.size), decode(sample.current_mask, sample.size)

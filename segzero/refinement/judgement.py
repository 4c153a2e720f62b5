"""The right answer about a mask: keep it, say what it should be, or say that nothing is there.

>>> import numpy as np
>>> from segzero.frames import stretch
>>> from segzero.masks import encode
>>> from segzero.sample import Object
>>> true = np.zeros((80, 100), bool)
>>> true[20:60, 10:50] = True
>>> cat = Object((10, 20, 50, 60), ((30, 40),), rle=encode(true))
>>> sample = Sample("s", "cat.jpg", "the cat", 100, 80, (cat,), current_mask=encode(true & (np.arange(100) < 30)))
>>> right_answer(sample, stretch(100), "a cat")
'<think>a cat</think><answer>[{"bbox_2d": [10,25,50,75], "point_2d": [30,50]}]</answer>'
"""

from rewards.refinement import good_enough
from segzero.answer import Answer, MaskAction, render_answer
from segzero.data.validation import true_answer
from segzero.errors import UserError
from segzero.frames import Frame
from segzero.masks import decode
from segzero.prompts import REFINE
from segzero.sample import Sample


def right_answer(sample: Sample, frame: Frame, think: str) -> str:
    """Write the right answer about a sample's current mask: `keep`, or the true objects, after a thought."""
    true = sample.mask()
    if true is None or sample.current_mask is None:
        raise UserError(f"sample {sample.id!r}: a mask can only be judged where all true objects have one")
    ignore = decode(sample.ignore, sample.size) if sample.ignore is not None else None
    if sample.objects and good_enough(decode(sample.current_mask, sample.size), decode(true), ignore):
        return render_answer(Answer(think, action=MaskAction()), REFINE)
    return true_answer(sample, frame, REFINE, think)

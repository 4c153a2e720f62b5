"""Answers that samples teach: chain of thought, boxes and points, as a policy would write them."""

from dataclasses import replace

from segzero.answer import POINTS
from segzero.data.validation import true_answer
from segzero.frames import Frame
from segzero.masks import decode, points_of
from segzero.prompts import REFINE
from segzero.sample import Object, Sample


def answer_text(sample: Sample, frame: Frame, format: str) -> str:
    """Write a sample's answer in a frame's coordinates; its thought is `meta["think"]`, or else a template."""
    think = sample.meta.get("think")
    if not isinstance(think, str) or not think.strip():
        think = template_think(sample)
    if sample.current_mask is not None:
        format = REFINE
    pointed = replace(sample, objects=tuple(_with_points(true, sample, POINTS[format]) for true in sample.objects))
    return true_answer(pointed, frame, format, " ".join(think.split()))


def template_think(sample: Sample) -> str:
    """Write a chain of thought from the truth alone.

    >>> template_think(Sample("s", "cat.jpg", "the cats", 640, 480))
    'I look for "the cats". Nothing in the image matches.'
    """
    count = len(sample.objects)
    found = f"{count} objects match." if count > 1 else "One object matches." if count else ""
    return f'I look for "{sample.question}". {found or "Nothing in the image matches."}'


def _with_points(true: Object, sample: Sample, count: int) -> Object:
    """Give an object with fewer points than a format has those of its mask, or the middle of its box."""
    if len(true.points) >= count:
        return true
    points = points_of(decode(true.rle, sample.size), count) if true.rle is not None else true.points
    x0, y0, x1, y1 = true.box
    return replace(true, points=points or (((x0 + x1) / 2, (y0 + y1) / 2),))

"""Recorded answers to scenes, written from the truth with faults of several sizes; boxes stand for their masks."""

import json

import numpy as np

from segzero import shipped
from segzero.masks import box_mask, encode
from segzero.policy.checkpoint import read_checkpoint
from segzero.reward_search.rollouts import AnswerFormat, AnswerGroup
from segzero.sample import Sample
from segzero.tiny.questions import make_samples

WRITTEN = AnswerFormat("multi", read_checkpoint(str(shipped.policy_path())).frame)
FAULTS = (0.0, 0.15, 0.4, 1.5, None, "unreadable")  # share of the box's side it is moved by; None: nothing there


def recorded_groups(questions: int = 9, seed: int = 5) -> list[AnswerGroup]:
    """Make answers of every fault to every question; of several objects the last one is left out now and then."""
    rng = np.random.default_rng(seed)
    return [_group(sample, rng) for sample in make_samples(questions, seed)]


def _group(sample: Sample, rng: np.random.Generator) -> AnswerGroup:
    texts, masks = [], []
    for fault in FAULTS:
        text, boxes = _answer(sample, fault, rng)
        texts.append(text)
        masks.append(tuple(encode(box_mask(box, sample.size)) for box in boxes))
    return AnswerGroup(sample, tuple(texts), tuple(masks), WRITTEN)


def _answer(sample: Sample, fault: float | str | None, rng: np.random.Generator):
    """The text of an answer, and its boxes in pixels."""
    think = "It is here. " * int(rng.integers(1, 4))
    if fault == "unreadable":
        return f"<think>{think}</think><answer>[[</answer>", []
    boxes = [] if fault is None else [_moved(one.box, fault, sample) for one in sample.objects]
    if fault and not sample.objects:
        boxes = [(20.0, 20.0, 60.0 + 60 * fault, 90.0)]
    if fault == 0.4 and len(boxes) > 1:
        boxes = boxes[:-1]
    objects = []
    for box in boxes:
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        frame = WRITTEN.frame
        objects.append({"bbox_2d": frame.to_frame(box, sample.size), "point_2d": frame.to_frame(middle, sample.size)})
    return f"<think>{think}</think><answer>{json.dumps(objects)}</answer>", boxes


def _moved(box, fault: float, sample: Sample):
    """The box moved to the right, or to the left where there is no room."""
    x0, y0, x1, y1 = box
    step = fault * (x1 - x0)
    step = step if x1 + step < sample.width else -step
    return max(0.0, x0 + step), y0, max(4.0, x1 + step), y1

"""Checks of one sample's truth, without a model and without its image.

>>> problems(Sample("s", "cat.jpg", "the cat", 640, 480, (Object((10, 20, 200, 500)),)))
['a box leaves its image']
"""

import math
from collections.abc import Iterator

import numpy as np

from rewards import PRESETS, Case
from rewards.case import SQUARE
from segzero.answer import MAX_OBJECTS, MAX_PHRASE, POINTS, Answer, Instance, Phrase, clean_phrase, render_answer
from segzero.errors import UserError
from segzero.frames import Frame, Size
from segzero.masks import Mask, box_iou, box_of, decode
from segzero.prompts import normalise
from segzero.sample import Object, Sample

ONE_OBJECT = ("seg_zero", "seg_zero_strict")  # presets that score exactly one object
SOME_OBJECT = ("vision_reasoner",)  # as published, it gives no points where nothing is there
LOOSE = 0.5  # least IoU of a box with its mask's tightest box
LONGEST = 800  # letters, some 200 tokens: what a prompt of 1300 tokens leaves beside the image and the template


def true_answer(sample: Sample, frame: Frame, format: str, think: str = "The truth.") -> str:
    """Write a sample's truth as a policy would; a single point is written twice where the format has two."""
    return render_answer(_true_answer(sample, frame, format, think), format)


def _true_answer(sample: Sample, frame: Frame, format: str, think: str) -> Answer:
    """The truth; its phrases, where the format has them, are the question with each object's box."""
    instances = _true_instances(sample, frame, format)
    if format != "phrase":
        return Answer(think, instances)
    text = (
        clean_phrase(sample.question[:MAX_PHRASE]) or "object"
    )  # a question that can't be asked is reported by itself
    return Answer(think, instances, phrases=tuple(Phrase(text, instance.box) for instance in instances))


def _true_instances(sample: Sample, frame: Frame, format: str) -> tuple[Instance, ...]:
    """True objects in whole numbers of a frame, with as many points as the format has."""
    instances = []
    for true in sample.objects:
        x0, y0, x1, y1 = frame.to_frame(true.box, sample.size)
        points = [frame.to_frame(point, sample.size) for point in (*true.points, *true.points[-1:])]
        instances.append(Instance((x0, y0, x1, y1), tuple((x, y) for x, y in points[: POINTS[format]])))
    return tuple(instances)


def problems(sample: Sample) -> list[str]:
    """List what is wrong with a sample, its image aside; each problem once."""
    problems = {problem for true in sample.objects for problem in _object_problems(true, sample.size)}
    try:
        normalise(sample.question)
    except UserError:
        problems.add("its question is empty or can't be asked")
    if len(sample.question) > LONGEST:
        problems.add(f"its question has more than {LONGEST} letters")
    if sample.ignore is not None and _decoded(sample.ignore, sample.size) is None:
        problems.add("its ignored pixels are malformed or of another size")
    if sample.current_mask is not None and _decoded(sample.current_mask, sample.size) is None:
        problems.add("its current mask is malformed or of another size")
    return sorted(problems)


def _object_problems(true: Object, size: Size) -> Iterator[str]:
    numbers = np.array([*true.box, *(v for point in true.points for v in point)])
    if not np.isfinite(numbers).all():
        yield "a coordinate is not finite"
        return
    x0, y0, x1, y1 = true.box
    if not (x0 < x1 and y0 < y1):
        yield "a box has no area"
    if min(x0, y0) < 0 or x1 > size[0] or y1 > size[1]:
        yield "a box leaves its image"
    if not all(x0 <= x <= x1 and y0 <= y <= y1 for x, y in true.points):
        yield "a point lies outside its box"
    if true.rle is None:
        return
    mask = _decoded(true.rle, size)
    if mask is None:
        yield "a mask is malformed or of another size"
        return
    tight = box_of(mask)
    if tight is None:
        yield "a mask has no pixels"
    elif float(box_iou(true.box, tight)) < LOOSE:
        yield "a box is not its mask's"
    if tight is not None and not all(_inside(mask, point) for point in true.points):
        yield "a point lies outside its mask"


def _decoded(rle: object, size: Size) -> Mask | None:
    try:
        return decode(rle, size)  # type: ignore[arg-type]
    except UserError:
        return None


def _inside(mask: Mask, point: tuple[float, float]) -> bool:
    x, y = math.floor(point[0]), math.floor(point[1])
    return 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and bool(mask[y, x])


def imperfect_terms(sample: Sample) -> dict[str, list[str]]:
    """Terms, by preset that can score the sample, in which the truth itself earns less than the highest value.

    The truth is rendered in whole numbers of the 840 frame, as the policy has to write it.

    >>> imperfect_terms(Sample("s", "cat.jpg", "the cat", 640, 480, (Object((10, 20, 200, 300), ((50, 60),)),)))["soft"]
    []
    """
    imperfect: dict[str, list[str]] = {}
    if not all(np.isfinite([*true.box, *np.ravel(true.points)]).all() for true in sample.objects):
        return imperfect
    cases: dict[str, Case] = {}  # by format
    for preset, rubric in PRESETS.items():
        if not _applies(preset, sample):
            continue
        format = "seg_zero" if preset in ONE_OBJECT else "phrase" if preset == "phrase" else "multi"
        if format not in cases:
            truth = _true_answer(sample, SQUARE, format, "The truth.")
            cases[format] = Case(render_answer(truth, format), truth.instances, format=format)
        reward = rubric.score(cases[format])
        is_highest = reward.total >= rubric.highest - 1e-6
        terms = [] if is_highest else [term.name for term in rubric.terms if reward.terms[term.name] < term.high - 1e-6]
        imperfect[preset] = terms
    return imperfect


def _applies(preset: str, sample: Sample) -> bool:
    if sample.current_mask is not None:  # what an answer does to the mask only a segmenter shows
        return False
    count = len(sample.objects)
    fits = count == 1 if preset in ONE_OBJECT else count > 0 or preset not in SOME_OBJECT
    fits = fits and (not PRESETS[preset].needs_masks or all(true.rle is not None for true in sample.objects))
    return fits and count <= MAX_OBJECTS and all(true.points for true in sample.objects)

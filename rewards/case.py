"""`Case`: everything that a term of a reward may look at, with boxes and points in the 840 frame.

That is a square of 840 pixels, in which the published rewards' distances (10, 30, 100 pixels) mean the same for every
image. The policy writes in its own frame, and the truth is kept in pixels of the original image: the constructors
convert both.

>>> from segzero.frames import relative
>>> truth = [{"bbox_2d": [0, 0, 320, 240], "point_2d": [160, 120]}]
>>> text = '<think></think><answer>[{"bbox_2d": [0, 0, 500, 500], "point_2d": [250, 250]}]</answer>'
>>> case = Case.of_objects(text, truth, size=(640, 480), frame=relative(1000))
>>> case.truth[0].box, case.answer.instances[0].box
((0.0, 0.0, 420.0, 420.0), (0.0, 0.0, 420.0, 420.0))
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from rewards.matching import Pair, pair_up
from segzero.answer import Answer, Instance, parse_answer
from segzero.errors import UserError
from segzero.frames import Frame, Size, stretch
from segzero.masks import RLE, Box, box_of, decode, encode, union
from segzero.sample import Sample
from segzero.solution import parse_objects, parse_solution

SIDE = 840
SQUARE = stretch(SIDE)

AnyMask = RLE | NDArray[np.bool_]
Truth = Sample | Sequence[Mapping[str, Any]] | str
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class PromptBoxes:
    """Boxes of earlier rounds that a prompt contains, in the policy's numbers, as the prompt writes them."""

    referred: frozenset[Numbers] = frozenset()  # those that the question refers to
    others: frozenset[Numbers] = frozenset()


class CaseOptions(TypedDict, total=False):
    """Options of every constructor of a `Case`."""

    frame: Frame | None  # the one the policy writes in; None: 840x840 pixels, as published
    format: str  # the answer format, "multi" unless given
    answer: Answer | None  # the response, if it is parsed already, in the policy's numbers
    prompt_boxes: PromptBoxes | None  # boxes that the prompt contained, for the term `cites`


@dataclass(frozen=True)
class Case:
    """One response and its truth. Make it with `of_sample`, `of_objects` or `of_solution`."""

    response: str
    truth: tuple[Instance, ...]  # in the 840 frame; empty: nothing is there
    scale: tuple[float, float] = (1.0, 1.0)  # x, y: from the policy's numbers to the 840 frame
    format: str = "multi"
    parsed: Answer | None = None  # in the policy's numbers, if the response has been parsed already
    predicted_mask: RLE | None = None  # union of the segmenter's masks for the answer; None: there is no segmenter
    true_mask: RLE | None = None
    ignore: RLE | None = None  # pixels that count neither way
    drawn_masks: tuple[RLE, ...] | None = None  # the segmenter's, one by one; None: there is no segmenter
    true_masks: tuple[RLE, ...] | None = None  # one per true object
    prompt_boxes: PromptBoxes = PromptBoxes()
    current_mask: RLE | None = None  # the mask that the policy was shown, to keep or to correct
    drawn_boxes: tuple[Box, ...] | None = None  # of the masks that phrases became; None: the answer's own boxes count
    retold: "Case | None" = None  # the policy's answer to its own think-chain in place of the question

    @classmethod
    def of_sample(
        cls,
        response: str,
        sample: Sample,
        masks: Sequence[AnyMask] | None = None,
        **options: Unpack[CaseOptions],
    ) -> "Case":
        """Compare a response with a Sample.

        `masks`: the segmenter's, in pixels of the original image, for `predicted_mask_iou`; all the Sample's objects
        must then have masks.
        """
        case = _case(response, [Instance(o.box, o.points) for o in sample.objects], sample.size, options)
        if sample.current_mask is not None:
            case = replace(case, current_mask=sample.current_mask, true_mask=sample.mask(), ignore=sample.ignore)
        if masks is None:
            return case
        true_mask = sample.mask()
        if true_mask is None:
            raise _no_true_masks(f"truth of sample {sample.id!r}")
        rles = [mask if isinstance(mask, dict) else encode(mask) for mask in masks]
        case = replace(
            case,
            predicted_mask=union(rles, sample.size),
            true_mask=true_mask,
            ignore=sample.ignore,
            drawn_masks=tuple(rles),
            true_masks=tuple(o.rle for o in sample.objects if o.rle is not None),
        )
        if not case.written.phrases:
            return case
        boxes = (box_of(decode(rle)) for rle in rles)
        return replace(case, drawn_boxes=tuple(box for box in boxes if box is not None))

    @classmethod
    def of_objects(
        cls,
        response: str,
        objects: Sequence[Mapping[str, Any]],
        size: Size = (SIDE, SIDE),
        **options: Unpack[CaseOptions],
    ) -> "Case":
        """Compare a response with {"bbox_2d", "point_2d"} objects in pixels of an image of that (width, height)."""
        return _case(response, parse_objects(objects), size, options)

    @classmethod
    def of_solution(
        cls, response: str, solution: str, size: Size = (SIDE, SIDE), **options: Unpack[CaseOptions]
    ) -> "Case":
        """Compare a response with a published `solution` in pixels of an image of that (width, height)."""
        return _case(response, parse_solution(solution), size, options)

    @cached_property
    def written(self) -> Answer:
        """The parsed response, in the policy's own numbers."""
        extent = (SIDE / self.scale[0], SIDE / self.scale[1])
        return self.parsed or parse_answer(self.response, self.format, extent)

    @cached_property
    def answer(self) -> Answer:
        """The parsed response, in the 840 frame."""
        if self.scale == (1.0, 1.0):
            return self.written
        instances = tuple(_scaled(instance, self.scale) for instance in self.written.instances)
        phrases = tuple(
            replace(one, box=_scaled(Instance(one.box), self.scale).box) if one.box else one
            for one in self.written.phrases
        )
        return replace(self.written, instances=instances, phrases=phrases)

    @cached_property
    def pairs(self) -> list[Pair]:
        """Predicted objects paired with true ones, one to one."""
        return pair_up(self.answer.instances, self.truth)

    @cached_property
    def well_formed(self) -> bool:
        """True for one pair of answer tags with JSON between them, as training teaches; `parse_answer` accepts more."""
        head, opening, rest = self.response.partition("<answer>")
        body, closing, tail = rest.partition("</answer>")
        if not (opening and closing) or "answer>" in head + body + tail:
            return False
        try:
            return isinstance(json.loads(body), list | dict)
        except (ValueError, RecursionError):
            return False

    @property
    def predicts_empty(self) -> bool:
        """True for a well-formed response whose answer is that nothing is there."""
        return self.well_formed and self.answer.error is None and not self.answer.count


def read_case(
    response: str,
    truth: Truth,
    size: Size | None = None,
    *,
    masks: Sequence[AnyMask] | None = None,
    **options: Unpack[CaseOptions],
) -> Case:
    """Make a `Case` of a truth in any form: a Sample, a list of {"bbox_2d", "point_2d"}, or a published `solution`.

    `size` is that of the image the truth's pixels belong to, 840x840 unless given; a Sample has its own. `masks` are
    for Samples alone.
    """
    if isinstance(truth, Sample):
        return Case.of_sample(response, truth, masks, **options)
    if masks is not None:
        raise _no_true_masks("truth")
    size = size or (SIDE, SIDE)
    if isinstance(truth, str):
        return Case.of_solution(response, truth, size, **options)
    return Case.of_objects(response, truth, size, **options)


def _case(response: str, truth: Sequence[Instance], size: Size, options: CaseOptions) -> Case:
    """A case without masks, from true instances in pixels of an image of that size."""
    to_square = (SIDE / size[0], SIDE / size[1])
    width, height = (options.get("frame") or SQUARE).extent(size)
    return Case(
        response,
        tuple(_scaled(instance, to_square) for instance in truth),
        (SIDE / width, SIDE / height),
        options.get("format", "multi"),
        options.get("answer"),
        prompt_boxes=options.get("prompt_boxes") or PromptBoxes(),
    )


def _no_true_masks(name: str) -> UserError:
    return UserError(f"{name}: masks can only be scored against a Sample whose objects all have an rle")


def _scaled(instance: Instance, scale: tuple[float, float]) -> Instance:
    """An instance with x and y multiplied, not rounded."""
    if scale == (1.0, 1.0):
        return instance
    sx, sy = scale
    x0, y0, x1, y1 = instance.box
    return Instance((x0 * sx, y0 * sy, x1 * sx, y1 * sy), tuple((x * sx, y * sy) for x, y in instance.points))

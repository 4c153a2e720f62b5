"""`Case`: all that a term may look at. Boxes and points are in the 840 frame, a square of 840 pixels.

There the published rewards' distances (10, 30, 100 pixels) mean the same for every image. The policy writes
in its own frame, the truth is kept in pixels of the original image: `read_case` brings both here.

>>> from segzero.frames import relative
>>> truth = [{"bbox_2d": [0, 0, 320, 240], "point_2d": [160, 120]}]
>>> text = '<think></think><answer>[{"bbox_2d": [0, 0, 500, 500], "point_2d": [250, 250]}]</answer>'
>>> case = read_case(text, truth, size=(640, 480), frame=relative(1000))
>>> case.truth[0].box, case.answer.instances[0].box
((0.0, 0.0, 420.0, 420.0), (0.0, 0.0, 420.0, 420.0))
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from rewards.matching import Pair, pair_up
from segzero.answer import MAX_COORDINATE, Answer, Instance, parse_answer
from segzero.errors import UserError
from segzero.frames import Frame, Size, stretch
from segzero.masks import RLE, encode, union
from segzero.sample import Sample

SIDE = 840
SQUARE = stretch(SIDE)

Truth = Sample | Sequence[Mapping[str, Any]] | str
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class PromptBoxes:
    """The boxes of earlier rounds that a prompt holds, in the policy's numbers, as the prompt writes them."""

    referred: frozenset[Numbers] = frozenset()  # what the question refers to
    others: frozenset[Numbers] = frozenset()


@dataclass(frozen=True)
class Case:
    """One response and its truth. Make it with `read_case`."""

    response: str
    truth: tuple[Instance, ...]  # in the 840 frame; empty: nothing is there
    scale: tuple[float, float] = (1.0, 1.0)  # x, y: from the policy's numbers to the 840 frame
    format: str = "multi"
    parsed: Answer | None = None  # in the policy's numbers, if the response has been parsed already
    drawn: RLE | None = None  # what the segmenter drew for the answer; None: there is no segmenter
    true_mask: RLE | None = None
    ignore: RLE | None = None  # pixels that count neither way
    prompt_boxes: PromptBoxes = PromptBoxes()

    @cached_property
    def written(self) -> Answer:
        """What the response says, in the policy's numbers; parsed when the first term asks."""
        extent = (SIDE / self.scale[0], SIDE / self.scale[1])
        return self.parsed or parse_answer(self.response, self.format, extent)

    @cached_property
    def answer(self) -> Answer:
        """What the response says, in the 840 frame."""
        if self.scale == (1.0, 1.0):
            return self.written
        instances = tuple(_scaled(instance, self.scale) for instance in self.written.instances)
        return replace(self.written, instances=instances)

    @cached_property
    def pairs(self) -> list[Pair]:
        """Which predicted object answers which true one."""
        return pair_up(self.answer.instances, self.truth)

    @cached_property
    def well_formed(self) -> bool:
        """One pair of answer tags with JSON between them. `parse_answer` reads more; training is to teach this."""
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
        """The response is well formed, and it says: nothing there."""
        return self.well_formed and self.answer.error is None and not self.answer.instances


def read_case(
    response: str,
    truth: Truth,
    size: Size | None = None,
    frame: Frame | None = None,
    format: str = "multi",
    answer: Answer | None = None,
    masks: Sequence[RLE | NDArray] | None = None,
    prompt_boxes: PromptBoxes | None = None,
) -> Case:
    """A response and its truth, ready to be scored.

    `truth`: a Sample, a list of {"bbox_2d", "point_2d"} or a published `solution`, in pixels of an image of
    `size` (the Sample's own, else 840x840). `frame`: the one the policy writes in; without it, 840x840
    pixels as published. `answer`: the response, if it is parsed already. `masks`: what the segmenter drew,
    in pixels of the original image, for `mask_iou`; the truth must then be a Sample with masks. `prompt_boxes`: the
    boxes that the prompt held, for `cites`; which they were, the prompt alone says, not the truth.
    """
    size = size or (truth.size if isinstance(truth, Sample) else (SIDE, SIDE))
    where = f"truth of sample {truth.id!r}" if isinstance(truth, Sample) else "truth"
    to_square = (SIDE / size[0], SIDE / size[1])
    objects = tuple(_scaled(instance, to_square) for instance in _read_truth(truth, where))
    width, height = (frame or SQUARE).extent(size)
    case = Case(
        response, objects, (SIDE / width, SIDE / height), format, answer, prompt_boxes=prompt_boxes or PromptBoxes()
    )
    if masks is None:
        return case
    true_mask = truth.mask() if isinstance(truth, Sample) else None
    if not isinstance(truth, Sample) or true_mask is None:
        raise UserError(f"{where}: masks can only be scored against a Sample whose objects all have an rle")
    drawn = union([mask if isinstance(mask, dict) else encode(mask) for mask in masks], truth.size)
    return replace(case, drawn=drawn, true_mask=true_mask, ignore=truth.ignore)


_BOX = re.compile(r"<box>\((\d+),(\d+)\),\((\d+),(\d+)\)</box>")
_POINTS = re.compile(r"<points>\((\d+),(\d+)\),\((\d+),(\d+)\)</points>")


def _read_truth(truth: Truth, where: str) -> list[Instance]:
    """The true objects, in whatever pixels they are given; integers stay integers."""
    if isinstance(truth, Sample):
        return [Instance(o.box, o.points) for o in truth.objects]
    if not isinstance(truth, str):
        return [_read_object(item, f"{where}, object {i}") for i, item in enumerate(truth)]
    if box := _BOX.search(truth):
        x0, y0, x1, y1 = (int(v) for v in box.groups())
        points = _POINTS.search(truth)
        px, py, qx, qy = (int(v) for v in points.groups()) if points else (0,) * 4
        return [Instance((x0, y0, x1, y1), ((px, py), (qx, qy)) if points else ())]
    try:
        items = json.loads(truth)
    except ValueError:
        items = None
    if not isinstance(items, list):
        raise UserError(f"{where}: a solution is <box>(x,y),(x,y)</box><points>...</points> or a JSON list of objects")
    return _read_truth(items, where)


def _read_object(item: object, where: str) -> Instance:
    """One object, written as in either answer format."""
    if not isinstance(item, Mapping):
        raise UserError(f'{where}: it must be {{"bbox_2d": [x, y, x, y], "point_2d": [x, y]}}')
    single = "bbox" in item
    box = _numbers(item.get("bbox" if single else "bbox_2d"), 4, f"{where}, box")
    keys = [key for key in (("points_1", "points_2") if single else ("point_2d",)) if key in item]
    return Instance(box, tuple(_numbers(item[key], 2, f"{where}, {key}") for key in keys))


def _numbers(values: object, count: int, where: str) -> Any:
    try:
        fine = len(values) == count and all(-MAX_COORDINATE <= v <= MAX_COORDINATE for v in values)  # type: ignore
    except TypeError:
        fine = False
    if not fine:
        raise UserError(f"{where}: it must be {count} finite numbers, not {values!r}")
    return tuple(values)  # type: ignore[arg-type]


def _scaled(instance: Instance, scale: tuple[float, float]) -> Instance:
    """The same in another frame; not rounded."""
    if scale == (1.0, 1.0):
        return instance
    sx, sy = scale
    x0, y0, x1, y1 = instance.box
    return Instance((x0 * sx, y0 * sy, x1 * sx, y1 * sy), tuple((x * sx, y * sy) for x, y in instance.points))

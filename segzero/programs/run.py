"""Run of a program on a picture, step by step, within limits of time and size.

>>> trace = run_program(pipeline, "desk.jpg", 'RESULT(LEFTMOST(FIND("mugs")))')   # doctest: +SKIP
>>> trace.rows[-1].summary                                                        # doctest: +SKIP
'1 object of 5316 pixels'
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from segzero.answer import MAX_PHRASES
from segzero.errors import Unavailable, UserError
from segzero.images import load_image
from segzero.masks import encode
from segzero.pipeline import ImageLike, Pipeline, Query, SegZeroPipeline
from segzero.programs.geometry import distinct
from segzero.programs.operators import Models
from segzero.programs.parser import Literal, Program, Step, StepReference, parse_program
from segzero.programs.trace import Attempt, Trace, TraceRow
from segzero.programs.values import Boxes, Masks, ObjectMask, Points, ProgramError, View, objects_of
from segzero.result import Segmentation
from segzero.segmenter import MaskPrompt
from segzero.segmenter.cache import CachedSegmenter
from segzero.segmenter.everything import PRESETS, EverythingSettings, find_everything
from segzero.words import find_words

KEPT_BYTES = 1 << 28  # of encoded pictures: the whole one, and its parts


@dataclass(frozen=True)
class ProgramLimits:
    """Bounds of a run; what a program may be at all, `segzero.programs.parser` says."""

    seconds: float = 120.0
    """Time after which no further step begins."""
    most_pixels: int = 1 << 31
    """Pixels of all masks of a value together."""


@dataclass
class PipelineModels:
    """The models of a pipeline, as operators call them, for one picture."""

    pipeline: SegZeroPipeline
    whole: View
    settings: EverythingSettings = PRESETS["sam2"]
    note: str = field(default="", init=False)  # the policy's thinking in the step that runs
    waited: float = field(default=0.0, init=False)  # seconds that its answer took before the step began
    known: dict[str, Segmentation] = field(default_factory=dict, init=False)  # phrase -> in the whole picture

    def find_together(self, phrases: Sequence[str]) -> None:
        """Find phrases in the whole picture at once, which is faster than one by one, and keep the results."""
        self.known = dict(zip(phrases, find_words(self.pipeline, self.whole.image, phrases), strict=True))

    def find(self, phrase: str, view: View) -> Masks:
        """Find all that a noun phrase names: with SAM3, or by the policy's boxes."""
        if view.is_whole and phrase in self.known:
            self.waited = sum(self.known[phrase].timings.values())
            return self._read(self.known[phrase], view)
        return self._read(find_words(self.pipeline, view.image, [phrase])[0], view)

    def ask(self, question: str, view: View) -> Masks:
        """Let the policy answer a question."""
        self.pipeline.fits(view.image)
        return self._read(self.pipeline.draw(self.pipeline.ask([Query(view.image, question)]))[0], view)

    def draw(self, boxes: Boxes, points: Points, view: View) -> Masks:
        """Draw an object in each box, or the one object at all of the points."""
        x, y = view.corner
        for place in (*boxes, *points):
            if not _is_in(view, place):
                numbers = ", ".join(f"{value:g}" for value in place)
                raise ProgramError(f"[{numbers}] lies outside the picture's part {list(view.box)}")
        prompts = [MaskPrompt(box=(x0 - x, y0 - y, x1 - x, y1 - y)) for x0, y0, x1, y1 in boxes]
        if points:
            prompts.append(MaskPrompt(points=[(px - x, py - y) for px, py in points]))
        if not prompts:
            return ()
        [drawn] = self.pipeline.segmenter.decode(self.pipeline.segmenter.embed([view.image]), [prompts])
        masks = [(view.to_whole(one.masks[0]), float(one.scores[0])) for one in drawn]
        return tuple(ObjectMask(encode(mask), score) for mask, score in masks if mask.any())

    def everything(self, view: View) -> Masks:
        """Find all masks."""
        found = find_everything(self.pipeline.segmenter, view.image, self.settings)
        whole = view.is_whole
        return tuple(ObjectMask(one.rle if whole else encode(view.to_whole(one.mask)), one.score) for one in found)

    def _read(self, result: Segmentation, view: View) -> Masks:
        self.note = result.think
        if result.error is not None:
            raise ProgramError(f"the policy's answer can't be read ({result.error})")
        return distinct(objects_of(view, result.instances))  # a policy may name an object twice


def _is_in(view: View, place: Sequence[float]) -> bool:
    x0, y0, x1, y1 = view.box
    xs, ys = place[::2], place[1::2]
    return max(xs) > x0 and min(xs) < x1 and max(ys) > y0 and min(ys) < y1


def check_pipeline(pipeline: Pipeline) -> SegZeroPipeline:
    """Refuse models that programs can't call."""
    if not isinstance(pipeline, SegZeroPipeline):
        raise UserError("programs need a policy and a segmenter; a mask model finds no single objects")
    return pipeline


def run_program(
    pipeline: Pipeline,
    image: ImageLike,
    program: Program | str,
    question: str = "",
    *,
    limits: ProgramLimits = ProgramLimits(),
    everything: EverythingSettings = PRESETS["sam2"],
    attempts: Sequence[Attempt] = (),
) -> Trace:
    """Run a program on a picture; a step that fails ends it, and the trace says at which line and why.

    A text that is no program is refused with a ProgramError before anything runs. `question` and `attempts` tell where
    the program comes from; `everything` has the settings of EVERYTHING.
    """
    begin = time.perf_counter()
    if isinstance(program, str):
        program = parse_program(program)
    picture = load_image(image)
    checked = check_pipeline(pipeline)
    segmenter = CachedSegmenter(checked.segmenter, KEPT_BYTES)
    models = PipelineModels(checked.with_models(checked.policy, segmenter), View.of(picture), everything)
    with suppress(UserError):  # one by one, the line that is to blame shows
        models.find_together(_phrases(program))
    rows: list[TraceRow] = []
    problem, line = "", 0
    for step in program.steps:
        started = time.perf_counter()
        models.note, models.waited = "", 0.0
        try:
            if started - begin > limits.seconds:
                raise ProgramError(f"the program took longer than {limits.seconds:g} s")
            value = _run_step(step, rows, models)
            _check_size(value, step, picture, limits)
        except Unavailable:
            raise  # no fault of the program
        except UserError as error:
            problem, line = getattr(error, "problem", str(error)), step.line
            break
        rows.append(TraceRow(step, value, models.waited + time.perf_counter() - started, models.note))
    seconds = time.perf_counter() - begin
    return Trace(picture, question, program, tuple(rows), tuple(attempts), problem, line, seconds)


def _phrases(program: Program) -> list[str]:
    """Phrases that the program looks for in the whole picture, each once."""
    phrases = []
    for step in program.steps:
        values = {operand.name: argument for operand, argument in step.arguments.items()}
        image = values.get("image")
        if step.operator.name == "FIND" and (image is None or (isinstance(image, StepReference) and image.step < 0)):
            phrases += [one.value for one in values.values() if isinstance(one, Literal)]
    return list(dict.fromkeys(phrases))[:MAX_PHRASES]


def _run_step(step: Step, rows: Sequence[TraceRow], models: Models) -> Any:
    """Compute a step from the values of earlier ones."""
    values = {
        operand.name: argument.value
        if isinstance(argument, Literal)
        else models.whole
        if argument.step < 0
        else rows[argument.step].value
        for operand, argument in step.arguments.items()
    }
    return step.operator.function(models, **values)


def _check_size(value: Any, step: Step, picture: Image.Image, limits: ProgramLimits) -> None:
    """Refuse more masks than a value may have."""
    if step.gives == "Masks" and len(value) * picture.width * picture.height > limits.most_pixels:
        masks = f"{len(value)} masks of {picture.width}x{picture.height} pixels"
        raise ProgramError(f"{step.operator.name} gives {masks}, too many; take a smaller picture")

"""A pipeline whose policy looks at each mask it has drawn, and corrects it until it keeps it.

>>> pipeline = refining(SegZeroPipeline.from_pretrained(), looks=3)                              # doctest: +SKIP
>>> [result] = pipeline(["street.jpg"], ["what keeps the rain off"])                            # doctest: +SKIP
>>> [step.action for step in result.steps]                                                      # doctest: +SKIP
['correct', 'keep']
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from segzero.answer import Answer
from segzero.errors import UserError
from segzero.masks import RLE, box_of, encode
from segzero.pipeline import PolicyOutput, Query, SegZeroPipeline
from segzero.prompts import REFINE
from segzero.refinement.correction import Correction, MaskCorrection, correction_prompts, labelled_points, settled
from segzero.refinement.observation import mark
from segzero.result import MOST_LOOKS, InstanceMask, RefinementStep, Segmentation
from segzero.segmenter import Embeddings
from segzero.segmenter.protocol import MaskPrediction, MaskPrompt, join


@dataclass
class RefiningPipeline(SegZeroPipeline):
    """A pipeline that looks at its masks up to `looks` times each; `refining` makes one.

    Each image is encoded once, and decoded once more for every look that draws. No look begins once a batch has been
    looked at for `seconds`; whatever the masks are then, they are the result.
    """

    looks: int = 3
    seconds: float = math.inf

    @property
    def settings(self) -> dict[str, object]:
        """Frame, prompt, decoding, and how often masks are looked at."""
        limit = {} if math.isinf(self.seconds) else {"refine_seconds": self.seconds}
        return {**super().settings, "refine": self.looks, **limit}

    def draw(
        self, outputs: Sequence[PolicyOutput], embeddings: Embeddings | None = None, begin: float | None = None
    ) -> list[Segmentation]:
        """Draw the masks of parsed answers, then look at them and correct them."""
        begin = time.perf_counter() if begin is None else begin
        if embeddings is None and outputs:
            embeddings = self._embed(outputs)
        results = super().draw(outputs, embeddings, begin)
        if embeddings is None:
            return results
        begin = time.perf_counter()
        looked_at = [place for place, result in enumerate(results) if result.error is None]
        for _ in range(self.looks):
            if not looked_at or time.perf_counter() - begin >= self.seconds:
                break
            corrected = self._look([results[place] for place in looked_at], [embeddings[at] for at in looked_at])
            for place, result in zip(looked_at, corrected, strict=True):
                results[place] = result
            looked_at = [place for place in looked_at if results[place].steps[-1].action == "correct"]
        took = (time.perf_counter() - begin) / max(len(results), 1)
        return [replace(result, timings={**result.timings, "refinement": took}) for result in results]

    def _embed(self, outputs: Sequence[PolicyOutput]) -> Embeddings:
        """Encode the image of each output, once if several share it."""
        images = {id(output.image): output.image for output in outputs}
        encoded, places = self.segmenter.embed(list(images.values())), list(images)
        return join([encoded[places.index(id(output.image))] for output in outputs])

    def _look(self, results: Sequence[Segmentation], embeddings: Sequence[Embeddings]) -> list[Segmentation]:
        """Ask the policy about each result's mask, and do what it says."""
        queries = [Query(mark(result.image, result.union, self.frame), result.question) for result in results]
        answers = [output.answer for output in replace(self, prompt=REFINE).ask(queries)]
        current = [encode(result.union) for result in results]
        prompts = [
            correction_prompts(answer, mask, self.frame, result.image.size)
            for answer, mask, result in zip(answers, current, results, strict=True)
        ]
        found = self._draw_looks(prompts, embeddings)
        return [_after(*each) for each in zip(results, answers, current, prompts, found, strict=True)]

    def _draw_looks(
        self, prompts: Sequence[Sequence[Correction]], embeddings: Sequence[Embeddings]
    ) -> list[list[InstanceMask]]:
        """Draw what each look asks for, in its image."""
        found: list[list[InstanceMask]] = [[] for _ in prompts]
        places = [place for place, asked in enumerate(prompts) if asked]
        if not places:
            return found
        images = join([embeddings[place] for place in places])
        grid = tuple(images.features[0].shape[-2:])
        given = [
            [one.prompt(grid) if isinstance(one, MaskCorrection) else one for one in prompts[place]] for place in places
        ]
        for place, drawn in zip(places, self.segmenter.decode(images, given), strict=True):
            found[place] = list(map(_instance, prompts[place], drawn))
        return found


def refining(pipeline: SegZeroPipeline, looks: int = 3, seconds: float = math.inf) -> RefiningPipeline:
    """Let a pipeline look at each of its masks up to `looks` times, for `seconds` a batch."""
    if not 1 <= looks <= MOST_LOOKS:
        raise UserError(f"a mask can be looked at 1 to {MOST_LOOKS} times, not {looks}")
    if not seconds > 0:
        raise UserError(f"{seconds} seconds leave no time to look at a mask; give more than 0")
    of_pipeline = (pipeline.policy, pipeline.segmenter, pipeline.prompt, pipeline.sampling, pipeline.batch)
    return RefiningPipeline(*of_pipeline, looks, seconds)


def _after(
    result: Segmentation, answer: Answer, current: RLE, prompts: Sequence[Correction], found: Sequence[InstanceMask]
) -> Segmentation:
    """The result after a look: with the step, and with the masks that the answer leaves."""
    answer = settled(answer, [encode(one.mask) for one in found], current, result.image.size)
    instances, labelled = result.instances, []
    if answer.error is None and not answer.keeps:
        instances = tuple(one for one in found if one.mask.any())
        labelled = [each for prompt in prompts for each in labelled_points(prompt)]
    points, labels = [point for point, _ in labelled], [label for _, label in labelled]
    step = RefinementStep(_action(answer), result.union, tuple(points), tuple(labels), answer.think, answer.error)
    return replace(result, instances=instances, steps=(*result.steps, step))


def _instance(prompt: Correction, predicted: MaskPrediction) -> InstanceMask:
    mask = predicted.masks[0]
    box = prompt.box if isinstance(prompt, MaskPrompt) else None
    inside = tuple(point for point, label in labelled_points(prompt) if label)
    return InstanceMask(mask, box or box_of(mask) or (0, 0, 0, 0), inside, float(predicted.scores[0]))


def _action(answer: Answer) -> str:
    if answer.error is not None:
        return "unreadable"
    if answer.keeps:
        return "keep"
    return "correct" if answer.corrects else "nothing"

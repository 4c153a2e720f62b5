"""`Dialogue`: an image, the rounds about it, and the models that answer and draw.

>>> dialogue = Dialogue("desk.jpg", pipeline)                                             # doctest: +SKIP
>>> mug = dialogue.ask("the mug").instances[0]                                            # doctest: +SKIP
>>> dialogue.refine(1, points=[(420, 300)], labels=[0])  # without what is at this pixel    # doctest: +SKIP
>>> dialogue.ask("the hand that holds it")                                                # doctest: +SKIP
>>> dialogue.draw(points=[(80, 60)])  # by hand, no policy is asked                       # doctest: +SKIP
>>> dialogue.undo()                                                                       # doctest: +SKIP
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from segzero.answer import parse_answer
from segzero.dialogue.correction import clicks, correction
from segzero.dialogue.memory import RECENT, get_memory
from segzero.dialogue.references import read_question, references_in
from segzero.dialogue.registry import Region, Registry, Round, finite
from segzero.dialogue.session_file import MAX_ROUNDS, read_dialogue, write_dialogue
from segzero.errors import UserError
from segzero.frames import Size
from segzero.images import load_image
from segzero.masks import Box, Mask, Point, box_of, encode
from segzero.pipeline import ImageLike, SegZeroPipeline, draw_answers
from segzero.policy import Request
from segzero.prompts import get_prompt, normalise, render_messages
from segzero.result import InstanceMask, Segmentation
from segzero.segmenter import Embeddings, MaskPrompt
from segzero.segmenter.protocol import best_first

MAX_STEPS = 1000  # that can be undone


class Dialogue:
    """Ask, draw, refine, undo and clear; each step either happens as a whole or leaves everything as it was.

    Of the pipeline it uses `policy.generate`, `segmenter.embed` (once) and `segmenter.decode`. `memory` is how earlier
    rounds are told: text, marks or crop; `recent` is how many of them in full. Not to be shared between threads.
    """

    def __init__(self, image: ImageLike, pipeline: SegZeroPipeline, memory: str = "text", recent: int = RECENT) -> None:
        if recent < 1:
            raise UserError(f"recent {recent} must be at least 1: the rounds that a prompt tells in full")
        self.image = load_image(image)
        self.pipeline = pipeline
        self.memory = memory
        self.recent = recent
        self._prepare = get_memory(memory)
        self._fitted = pipeline.policy.frame.fit(self.image)  # refuses shapes that the policy can't see
        self._steps: tuple[Registry, ...] = (Registry(self.image.size),)
        self._embeddings: Embeddings | None = None

    @property
    def registry(self) -> Registry:
        """All rounds so far, and their regions."""
        return self._steps[-1]

    def ask(
        self, question: str, about: int | None = None, on_text: Callable[[str], object] | None = None
    ) -> Segmentation:
        """A new round. `about` is the round that "it" means, if not the last; `on_text` is told what the policy writes.

        If all that the question refers to was found to be nothing, so is the answer, and no model is asked.
        """
        begin = time.perf_counter()
        pipeline, registry = self.pipeline, self.registry
        policy = pipeline.policy
        self._room()
        read = read_question(question, registry, about)
        references = references_in(read)
        round = Round(
            number=len(registry.rounds) + 1,
            question=question.strip(),
            refers=tuple(dict.fromkeys(number for reference in references for number in reference.rounds)),
        )
        if references and all(reference.empty for reference in references):
            rounds = " and ".join(str(number) for number in round.refers)
            self._take(registry.add(replace(round, think=f"Round {rounds} found nothing, so nothing relates to it.")))
            return self.result(round.number)
        prepared = self._prepare(read, registry, self.image, policy.frame, self.recent)
        prompt = pipeline.prompt or policy.prompt
        more = () if prepared.image is None else (prepared.image,)
        messages = render_messages(prepared.question, prompt, prepared.notes, images=1 + len(more))
        [reply] = policy.generate([Request(self._fitted, messages, more, on_text)], pipeline.sampling)
        answered = time.perf_counter()
        answer = parse_answer(reply.text, get_prompt(prompt).format, extent=policy.frame.extent(self.image.size))
        [found] = draw_answers(pipeline.segmenter, self._embed(), [answer], policy.frame)
        round = replace(
            round,
            regions=registry.number(round.question, found),
            think=answer.think,
            raw_text=reply.text,
            error=answer.error,
            warnings=answer.warnings,
        )
        self._take(registry.add(round))
        timings = {"policy": answered - begin, "segmenter": time.perf_counter() - answered}
        return replace(self.result(round.number), timings=timings)

    def draw(
        self,
        points: Sequence[Point] = (),
        labels: Sequence[int] = (),
        box: Box | None = None,
        question: str = "",
        choice: int = 0,
    ) -> Segmentation:
        """A new round by hand: one instance from points, a box or both, and no policy is asked.

        `question` is what to call it; `choice` takes another of the `candidates` than the best.
        """
        self._room()
        if question:
            normalise(question)
        prompt = clicks(points, labels, box)
        mask, score = self._drawn(prompt, choice)
        tight = box_of(mask)
        if tight is None:
            raise UserError("the segmenter draws nothing there; give other points, another box or another choice")
        number = len(self.registry.rounds) + 1
        [region] = self.registry.number(question.strip(), (InstanceMask(mask, tight, tuple(prompt.points), score),))
        region = replace(region, labels=tuple(prompt.labels), box=_clip(box, self.image.size) if box else tight)
        self._take(self.registry.add(Round(number, question.strip(), (region,))))
        return self.result(number)

    def refine(
        self,
        id: int,
        points: Sequence[Point] = (),
        labels: Sequence[int] = (),
        box: Box | None = None,
        choice: int = 0,
    ) -> Segmentation:
        """The round of that instance, its mask drawn anew from the earlier one with more points, or another box.

        Labels are 1 (inside) or 0 (outside), one for each point; without labels all points are inside. `choice` takes
        another of the `candidates` than the best.
        """
        region = self.registry.region(id)
        prompt = self._correction(region, points, labels, box)
        mask, score = self._drawn(prompt, choice)
        corrected = replace(
            region,
            box=_clip(box, self.image.size) if box is not None else box_of(mask) or region.box,
            points=tuple(prompt.points),
            labels=tuple(prompt.labels),
            rle=encode(mask),
            score=score,
        )
        self._take(self.registry.correct(corrected))
        return self.result(region.round)

    def candidates(
        self,
        id: int | None = None,
        points: Sequence[Point] = (),
        labels: Sequence[int] = (),
        box: Box | None = None,
    ) -> list[tuple[Mask, float]]:
        """The masks that `refine` (of instance `id`) or `draw` (without it) choose from, the best first.

        Each with the IoU that the segmenter expects of it. Nothing changes.
        """
        prompt = (
            clicks(points, labels, box)
            if id is None
            else self._correction(self.registry.region(id), points, labels, box)
        )
        return self._readings(prompt)

    def undo(self) -> None:
        """Take back the last step: a round, a correction, or that everything was cleared."""
        if len(self._steps) == 1:
            raise UserError("there is nothing to undo")
        self._steps = self._steps[:-1]

    def clear(self) -> None:
        """Forget all rounds, and begin with round 1 again."""
        if self.registry.rounds:
            self._take(Registry(self.image.size))

    def result(self, number: int) -> Segmentation:
        """What a round found, as it is after corrections."""
        round = self.registry.round(number)
        return Segmentation(
            self.image,
            round.question,
            tuple(region.found for region in round.regions),
            think=round.think,
            raw_text=round.raw_text,
            error=round.error,
            warnings=round.warnings,
        )

    def save_round(self, number: int, folder: str | Path) -> dict[str, Path]:
        """Write `round_NUMBER_overlay.png` and `round_NUMBER.json` into a folder."""
        return self.result(number).save(folder, f"round_{number}", ("overlay", "json"))

    def save(self, path: str | Path) -> Path:
        """Write all rounds to a JSON file, whole or not at all; the image itself is not in it."""
        return write_dialogue(self.registry, self.image, self.memory, Path(path))

    @classmethod
    def load(
        cls, path: str | Path, image: ImageLike, pipeline: SegZeroPipeline, memory: str | None = None
    ) -> "Dialogue":
        """Go on with a saved dialogue about the same image; undo then takes back its rounds, one by one."""
        picture = load_image(image)
        registry, saved_memory = read_dialogue(Path(path), picture)
        dialogue = cls(picture, pipeline, memory or saved_memory)
        dialogue._steps = tuple(
            Registry(registry.size, registry.rounds[:count]) for count in range(len(registry.rounds) + 1)
        )
        return dialogue

    def _take(self, registry: Registry) -> None:
        self._steps = (*self._steps[-MAX_STEPS:], registry)

    def _room(self) -> None:
        if len(self.registry.rounds) >= MAX_ROUNDS:
            raise UserError(f"a dialogue has at most {MAX_ROUNDS} rounds; clear this one, or begin another")

    def _correction(
        self, region: Region, points: Sequence[Point], labels: Sequence[int], box: Box | None
    ) -> MaskPrompt:
        grid = self._embed().features[0].shape[-2:]
        return correction(region, points, labels, box, (int(grid[0]), int(grid[1])))

    def _drawn(self, prompt: MaskPrompt, choice: int) -> tuple[Mask, float]:
        readings = self._readings(prompt)
        if not 0 <= choice < len(readings):
            raise UserError(f"there is no choice {choice}; 0 (the best) to {len(readings) - 1} can be taken")
        return readings[choice]

    def _readings(self, prompt: MaskPrompt) -> list[tuple[Mask, float]]:
        [[drawn]] = self.pipeline.segmenter.decode(self._embed(), [[prompt]], all_masks=True)
        masks = drawn.masks
        return [(masks[place], finite(float(drawn.scores[place]))) for place in best_first(drawn)]

    def _embed(self) -> Embeddings:
        if self._embeddings is None:
            self._embeddings = self.pipeline.segmenter.embed([self.image])
        return self._embeddings


def _clip(box: Box, size: Size) -> Box:
    width, height = (float(side) for side in size)
    x0, y0, x1, y1 = (float(v) for v in box)
    return min(max(x0, 0), width), min(max(y0, 0), height), min(max(x1, 0), width), min(max(y1, 0), height)

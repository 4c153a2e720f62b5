"""`Dialogue`: an image, the rounds about it, and the models that answer and draw.

>>> dialogue = Dialogue("desk.jpg", pipeline)                                             # doctest: +SKIP
>>> mug = dialogue.ask("the mug").instances[0]                                            # doctest: +SKIP
>>> dialogue.refine(1, points=[(420, 300)], labels=[0])  # without what is at this pixel    # doctest: +SKIP
>>> dialogue.ask("the hand that holds it")                                                # doctest: +SKIP
>>> dialogue.draw(points=[(80, 60)])  # by hand, without the policy                       # doctest: +SKIP
>>> dialogue.undo()                                                                       # doctest: +SKIP
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from segzero.dialogue.correction import correction, new_region
from segzero.dialogue.memory import RECENT
from segzero.dialogue.prompting import build_prompt
from segzero.dialogue.registry import Region, Registry, Round
from segzero.dialogue.session_file import MAX_ROUNDS, read_dialogue, write_dialogue
from segzero.errors import UserError, unknown_name
from segzero.frames import clip_box
from segzero.images import load_image
from segzero.io import finite_or_zero
from segzero.masks import Box, Mask, Point, box_of, encode
from segzero.pipeline import ImageLike, Pipeline
from segzero.prompts import normalise
from segzero.result import InstanceMask, RefinementStep, Segmentation
from segzero.segmenter import Embeddings, MaskPrompt, Segmenter
from segzero.segmenter.protocol import best_first

MAX_STEPS = 1000  # steps that can be undone


class Dialogue:
    """A dialogue about one image: ask, draw, refine, undo and clear.

    Each step happens as a whole or leaves everything as it was. The image is encoded once. `memory` is how the model
    sees earlier rounds, one of `pipeline.memories`; `recent` is how many of them in full. Steps may be given a
    `pipeline` to use in place of the dialogue's own, with the same models. Not to be shared between threads.
    """

    def __init__(self, image: ImageLike, pipeline: Pipeline, memory: str | None = None, recent: int = RECENT) -> None:
        if recent < 1:
            raise UserError(f"recent {recent} must be at least 1: the rounds that a prompt shows in full")
        self.image = load_image(image)
        self.pipeline = pipeline
        self.memory = memory or pipeline.memories[0]
        self.recent = recent
        if self.memory not in pipeline.memories:
            raise unknown_name("memory mode", self.memory, list(pipeline.memories))
        pipeline.fits(self.image)
        self._steps: tuple[Registry, ...] = (Registry(self.image.size),)
        self._embeddings: Embeddings | None = None

    @property
    def registry(self) -> Registry:
        """All rounds so far, and their regions."""
        return self._steps[-1]

    def ask(
        self,
        question: str,
        about: int | None = None,
        on_text: Callable[[str], object] | None = None,
        pipeline: Pipeline | None = None,
    ) -> Segmentation:
        """Ask the policy, and add its answer as a new round.

        `about` is the round that "it" means, if not the last; `on_text` is called with the text so far while the
        policy generates; `pipeline` takes the place of the dialogue's own. If every object that the question refers
        to was found to be absent, so is the answer, and no model is called.
        """
        pipeline, registry = pipeline or self.pipeline, self.registry
        self._check_room()
        prompt = build_prompt(
            question,
            registry,
            pipeline.frame,
            memory=self.memory,
            image=self.image,
            recent=self.recent,
            about=about,
        )
        round = Round(len(registry.rounds) + 1, question.strip(), refers=prompt.rounds)
        if prompt.answer_is_empty:
            rounds = " and ".join(str(number) for number in round.refers)
            self._push(registry.add(replace(round, think=f"Round {rounds} found nothing, so nothing relates to it.")))
            return self.result(round.number)
        result = pipeline.answer(prompt.query(self.image, on_text), lambda: self._embed(pipeline))
        regions = registry.number(round.question, result.instances)
        self._push(
            registry.add(
                replace(
                    round,
                    regions=regions,
                    think=result.think,
                    raw_text=result.raw_text,
                    error=result.error,
                    warnings=result.warnings,
                    steps=tuple(step.to_dict() for step in result.steps),
                )
            )
        )
        numbered = [
            replace(instance, number=region.id, score=region.score)
            for instance, region in zip(result.instances, regions, strict=True)
        ]
        return replace(result, question=round.question, instances=tuple(numbered))

    def draw(
        self,
        points: Sequence[Point] = (),
        labels: Sequence[int] = (),
        box: Box | None = None,
        question: str = "",
        choice: int = 0,
        pipeline: Pipeline | None = None,
    ) -> Segmentation:
        """Add a round by hand: one instance from points, a box or both, without the policy.

        `question` is what to call it; `choice` takes another of the `candidates` than the best.
        """
        self._check_room()
        if question:
            normalise(question)
        prompt = new_region(points, labels, box)
        mask, score = self._pick(prompt, choice, pipeline)
        tight = box_of(mask)
        if tight is None:
            raise UserError("the segmenter draws nothing there; give other points, another box or another choice")
        number = len(self.registry.rounds) + 1
        [region] = self.registry.number(question.strip(), (InstanceMask(mask, tight, tuple(prompt.points), score),))
        region = replace(region, labels=tuple(prompt.labels), box=clip_box(box, self.image.size) if box else tight)
        self._push(self.registry.add(Round(number, question.strip(), (region,))))
        return self.result(number)

    def refine(
        self,
        id: int,
        points: Sequence[Point] = (),
        labels: Sequence[int] = (),
        box: Box | None = None,
        choice: int = 0,
        pipeline: Pipeline | None = None,
    ) -> Segmentation:
        """Draw an instance's mask anew, from the earlier one with more points or another box; returns its round.

        Labels are 1 (inside) or 0 (outside), one for each point; without labels all points are inside. `choice` takes
        another of the `candidates` than the best.
        """
        region = self.registry.region(id)
        prompt = self._correction(region, points, labels, box, pipeline)
        mask, score = self._pick(prompt, choice, pipeline)
        corrected = replace(
            region,
            box=clip_box(box, self.image.size) if box is not None else box_of(mask) or region.box,
            points=tuple(prompt.points),
            labels=tuple(prompt.labels),
            rle=encode(mask),
            score=score,
        )
        self._push(self.registry.correct(corrected))
        return self.result(region.round)

    def candidates(
        self,
        id: int | None = None,
        points: Sequence[Point] = (),
        labels: Sequence[int] = (),
        box: Box | None = None,
        pipeline: Pipeline | None = None,
    ) -> list[tuple[Mask, float]]:
        """The masks that `refine` (of instance `id`) or `draw` (without it) choose from, the best first.

        Each comes with the IoU that the segmenter expects of it. Nothing changes.
        """
        prompt = (
            new_region(points, labels, box)
            if id is None
            else self._correction(self.registry.region(id), points, labels, box, pipeline)
        )
        return self._candidates(prompt, pipeline)

    def undo(self) -> None:
        """Take back the last step: a round, a correction, or that everything was cleared."""
        if len(self._steps) == 1:
            raise UserError("there is nothing to undo")
        self._steps = self._steps[:-1]

    def clear(self) -> None:
        """Forget all rounds, and begin with round 1 again."""
        if self.registry.rounds:
            self._push(Registry(self.image.size))

    def result(self, number: int) -> Segmentation:
        """The result of a round, after corrections."""
        round = self.registry.round(number)
        return Segmentation(
            self.image,
            round.question,
            tuple(region.instance for region in round.regions),
            think=round.think,
            raw_text=round.raw_text,
            error=round.error,
            warnings=round.warnings,
            steps=tuple(RefinementStep.from_dict(step, self.image.size) for step in round.steps),
        )

    def save_round(self, number: int, folder: str | Path) -> dict[str, Path]:
        """Write `round_NUMBER_overlay.png` and `round_NUMBER.json` into a folder."""
        return self.result(number).save(folder, f"round_{number}", ("overlay", "json"))

    def save(self, path: str | Path) -> Path:
        """Write all rounds to a JSON file, whole or not at all; the image itself is not in it."""
        return write_dialogue(self.registry, self.image, self.memory, Path(path))

    @classmethod
    def load(cls, path: str | Path, image: ImageLike, pipeline: Pipeline, memory: str | None = None) -> "Dialogue":
        """Continue a saved dialogue about the same image; undo then takes back its rounds, one by one."""
        picture = load_image(image)
        registry, saved_memory = read_dialogue(Path(path), picture)
        dialogue = cls(picture, pipeline, memory or (saved_memory if saved_memory in pipeline.memories else None))
        dialogue._steps = tuple(
            Registry(registry.size, registry.rounds[:count]) for count in range(len(registry.rounds) + 1)
        )
        return dialogue

    def _push(self, registry: Registry) -> None:
        self._steps = (*self._steps[-MAX_STEPS:], registry)

    def _check_room(self) -> None:
        if len(self.registry.rounds) >= MAX_ROUNDS:
            raise UserError(f"a dialogue has at most {MAX_ROUNDS} rounds; clear this one, or begin another")

    def _correction(
        self,
        region: Region,
        points: Sequence[Point],
        labels: Sequence[int],
        box: Box | None,
        pipeline: Pipeline | None,
    ) -> MaskPrompt:
        grid = self._embed(pipeline).features[0].shape[-2:]
        return correction(region, points, labels, box, (int(grid[0]), int(grid[1])))

    def _pick(self, prompt: MaskPrompt, choice: int, pipeline: Pipeline | None) -> tuple[Mask, float]:
        candidates = self._candidates(prompt, pipeline)
        if not 0 <= choice < len(candidates):
            raise UserError(f"there is no choice {choice}; 0 (the best) to {len(candidates) - 1} can be taken")
        return candidates[choice]

    def _candidates(self, prompt: MaskPrompt, pipeline: Pipeline | None) -> list[tuple[Mask, float]]:
        segmenter = self._segmenter(pipeline)
        [[prediction]] = segmenter.decode(self._embed(pipeline), [[prompt]], all_masks=True)
        masks = prediction.masks
        return [(masks[place], finite_or_zero(float(prediction.scores[place]))) for place in best_first(prediction)]

    def _embed(self, pipeline: Pipeline | None) -> Embeddings:
        if self._embeddings is None:
            self._embeddings = self._segmenter(pipeline).embed([self.image])
        return self._embeddings

    def _segmenter(self, pipeline: Pipeline | None) -> Segmenter:
        segmenter = (pipeline or self.pipeline).segmenter
        if segmenter is None:
            raise UserError("nothing can be drawn by hand here: there is no segmenter beside the mask model")
        return segmenter

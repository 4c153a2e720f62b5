"""Scoring of answers: parse the text, draw its masks if a reward term needs them, and compute the reward.

>>> import asyncio
>>> from segzero.sample import Object
>>> from segzero.frames import stretch
>>> scorer = Scorer("vision_reasoner", "multi", stretch(840))
>>> sample = Sample("s", "", "the cat", 840, 840, objects=(Object((10, 100, 200, 210), points=((30, 110),)),))
>>> text = '<think>a cat</think><answer>[{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}]</answer>'
>>> [scored] = asyncio.run(scorer.score(sample, [text]))
>>> scored.reward.total, scored.reward.terms["accuracy"]
(7.0, 3.0)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rewards import Case, Guard, Overlong, PromptBoxes, QuantileRanks, Reward, Rubric, find_reward
from segzero.answer import Answer, parse_answer
from segzero.errors import UserError
from segzero.frames import Frame
from segzero.masks import RLE
from segzero.pipeline import in_pixels, phrases_in_pixels
from segzero.prompts import REFINE
from segzero.refinement.correction import correction_prompts, settled
from segzero.sample import Sample
from segzero.segmenter.protocol import MaskPrompt
from segzero.training.segmenter_actor import DrawMasks, Prompts


@dataclass(frozen=True, eq=False)
class ScoredAnswer:
    """A parsed answer with its reward, and the masks if they were drawn."""

    answer: Answer
    reward: Reward
    masks: tuple[RLE, ...] | None = None  # one per instance, or what phrases became; None: not drawn


class Scorer:
    """Scores the answers of one run, by a preset of `rewards`, a user's function or a candidate's file.

    `draw` is the segmenter's: `SegmenterActor.draw`, or its `.remote` where the actor is another process. `overlong`
    applies in training alone, so that validation rewards of runs with and without it can be compared.
    """

    def __init__(
        self,
        reward: str,
        format: str,
        frame: Frame,
        draw: DrawMasks | None = None,
        overlong: Overlong | None = None,
    ) -> None:
        self.reward, self.format, self.frame, self.draw, self.overlong = reward, format, frame, draw, overlong
        found = find_reward(reward)
        self.rubric = found if isinstance(found, Rubric) else None
        self.guard = None if isinstance(found, Rubric) else Guard(found)
        self.needs_masks = found.needs_masks
        self.needs_retelling = self.rubric is not None and self.rubric.needs_retelling
        self.ranks = QuantileRanks(self.rubric) if self.rubric and self.rubric.rank_normalized else None
        self._unranked: list[Reward] = []

    async def score(
        self,
        sample: Sample,
        texts: Sequence[str],
        validating: bool = False,
        prompt_boxes: PromptBoxes | None = None,
        retold: Sequence[str] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> list[ScoredAnswer]:
        """Score the texts of several answers to one prompt; `prompt_boxes` are the boxes that the prompt showed.

        `retold` are the answers to each text's own think-chain (`segzero.training.retelling`), `lengths` the answers'
        numbers of tokens, for `overlong`. In validation masks are drawn whatever the reward needs, and the rewards
        don't enter the ranks.
        """
        answers = self.parse(sample, texts)
        settled_answers, masks = answers, None
        if validating or self.needs_masks:
            settled_answers, masks = await self.draw_answers(sample, answers)
        cases = self._cases(sample, texts, answers, masks, prompt_boxes)
        if retold is not None:
            seconds = [parse_answer(text, self.format, self.frame.extent(sample.size)) for text in retold]
            plain = replace(sample, current_mask=None)  # a retelling is not about the mask
            drawn = (await self.draw_answers(plain, seconds))[1] if masks is not None else None
            again = self._cases(plain, retold, seconds, drawn)
            cases = [replace(case, retold=second) for case, second in zip(cases, again, strict=True)]
        rewards = self._rewards(cases, sample.id)
        if self.ranks is not None:
            if not validating:
                self._unranked += rewards
            rewards = self.ranks.rank(rewards)
        if self.overlong and lengths is not None and not validating:
            rewards = [self.overlong.apply(*each) for each in zip(rewards, lengths, strict=True)]
        return [
            ScoredAnswer(answer, reward, tuple(masks[i]) if masks else None)
            for i, (answer, reward) in enumerate(zip(settled_answers, rewards, strict=True))
        ]

    def parse(self, sample: Sample, texts: Sequence[str]) -> list[Answer]:
        """Parse answers to a sample, in the format that it is asked in."""
        return [parse_answer(text, self._format_of(sample), self.frame.extent(sample.size)) for text in texts]

    async def draw_answers(
        self, sample: Sample, answers: Sequence[Answer]
    ) -> tuple[list[Answer], list[list[RLE]] | None]:
        """Draw the masks of each answer, or what it makes of the sample's current one.

        Returns the answers, of which those that draw the current mask again keep it, and the masks: None without a
        segmenter.
        """
        if self.draw is None:
            return list(answers), None
        current, size = sample.current_mask, sample.size
        if current is not None:
            looks: Prompts = [correction_prompts(answer, current, self.frame, size) for answer in answers]
            drawn = await self.draw(str(sample.image), looks)
            answers = [settled(answer, masks, current, size) for answer, masks in zip(answers, drawn, strict=True)]
            kept = [[current] if answer.keeps else masks for answer, masks in zip(answers, drawn, strict=True)]
            return answers, kept
        prompts: Prompts = [
            phrases_in_pixels(answer, self.frame, size)
            if answer.phrases
            else [MaskPrompt(*in_pixels(i, self.frame, size)) for i in answer.instances]
            for answer in answers
        ]
        return list(answers), await self.draw(str(sample.image), prompts)

    def end_step(self) -> None:
        """Let the values of the step, now that all are there, count in the ranks of the next one."""
        if self.ranks is not None:
            self.ranks.add(self._unranked)
            self._unranked.clear()

    def state(self) -> dict[str, list[float]]:
        """The ranks that a run resumed after the last ended step starts from."""
        return self.ranks.state() if self.ranks else {}

    def restore(self, state: dict[str, list[float]]) -> None:
        """Take over the ranks of an earlier run."""
        if self.ranks and state:
            self.ranks.restore(state)

    def _format_of(self, sample: Sample) -> str:
        return self.format if sample.current_mask is None else REFINE

    def _cases(
        self,
        sample: Sample,
        texts: Sequence[str],
        answers: Sequence[Answer],
        masks: Sequence[Sequence[RLE]] | None,
        prompt_boxes: PromptBoxes | None = None,
    ) -> list[Case]:
        """Make the case of each text, at which the reward's terms look."""
        return [
            Case.of_sample(
                text,
                sample,
                masks[i] if masks else None,
                frame=self.frame,
                format=self._format_of(sample),
                answer=answer,
                prompt_boxes=prompt_boxes,
            )
            for i, (text, answer) in enumerate(zip(texts, answers, strict=True))
        ]

    def _rewards(self, cases: Sequence[Case], sample_id: str) -> list[Reward]:
        if self.guard is not None:
            return _fill_missing([self.guard.score(case, sample_id) for case in cases])
        assert self.rubric is not None
        try:
            return [self.rubric.score(case) for case in cases]
        except UserError as error:
            raise UserError(f"reward={self.reward} cannot score sample {sample_id!r}: {error}") from error


def _fill_missing(rewards: Sequence[Reward | None]) -> list[Reward]:
    """Give an answer whose reward failed the mean of its group: its advantage is then zero."""
    known = [reward.total for reward in rewards if reward is not None]
    mean = sum(known) / len(known) if known else 0.0
    return [reward or Reward(mean, {}) for reward in rewards]

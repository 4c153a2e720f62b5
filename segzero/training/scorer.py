"""From the text of an answer to its reward: parsed once, drawn by the segmenter if a term asks for masks.

>>> import asyncio
>>> from segzero.sample import Object
>>> from segzero.frames import stretch
>>> scorer = Scorer("vision_reasoner", "multi", stretch(840))
>>> sample = Sample("s", "", "the cat", 840, 840, objects=(Object((10, 100, 200, 210), points=((30, 110),)),))
>>> text = '<think>a cat</think><answer>[{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}]</answer>'
>>> [scored] = asyncio.run(scorer.score(sample, [text]))
>>> scored.total, scored.terms["accuracy"]
(7.0, 3.0)
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rewards import (
    Case,
    Guard,
    PromptBoxes,
    QuantileRanks,
    Reward,
    get_rubric,
    load_reward,
)
from segzero.answer import Answer, parse_answer
from segzero.errors import UserError
from segzero.frames import Frame
from segzero.masks import RLE
from segzero.pipeline import in_pixels
from segzero.sample import Sample
from segzero.segmenter.protocol import MaskPrompt


class Drawer(Protocol):
    """Whoever draws: the segmenter's actor through `ActorDrawer`, or the service itself."""

    async def draw(self, path: str, answers: list[list[MaskPrompt]]) -> list[list[RLE]]: ...


@dataclass(frozen=True)
class ActorDrawer:
    """The segmenter's actor, called as if it were here."""

    actor: Any

    async def draw(self, path: str, answers: list[list[MaskPrompt]]) -> list[list[RLE]]:
        return await self.actor.draw.remote(path, answers)


@dataclass(frozen=True, eq=False)
class Scored:
    """What an answer was worth, and what was seen on the way."""

    total: float
    terms: dict[str, float]  # each term before its weight
    answer: Answer
    masks: tuple[RLE, ...] | None = None  # one an instance; None: nobody drew


class Scorer:
    """Scores the answers of one run: a preset of `rewards`, or a user's function by its dotted path."""

    def __init__(self, reward: str, format: str, frame: Frame, drawer: Drawer | None = None) -> None:
        self.reward, self.format, self.frame, self.drawer = reward, format, frame, drawer
        self.guard = Guard(load_reward(reward)) if "." in reward else None
        self.rubric = None if self.guard else get_rubric(reward)
        self.draws = drawer is not None and self.rubric is not None and self.rubric.needs_masks
        self.ranks = QuantileRanks(self.rubric) if self.rubric and self.rubric.rank_normalized else None
        self._unranked: list[Reward] = []

    async def score(
        self, sample: Sample, texts: Sequence[str], validating: bool = False, prompt_boxes: PromptBoxes | None = None
    ) -> list[Scored]:
        """One result a text; `prompt_boxes`: the boxes that its prompt held.

        In validation masks are drawn whatever the reward needs, and no rank is learnt.
        """
        draws = self.drawer is not None if validating else self.draws
        answers = [parse_answer(text, self.format, self.frame.extent(sample.size)) for text in texts]
        masks = await self._draw(sample, answers) if draws else None
        cases = [
            Case.of_sample(text, sample, self.frame, self.format, answer, masks[i] if masks else None, prompt_boxes)
            for i, (text, answer) in enumerate(zip(texts, answers, strict=True))
        ]
        rewards = self._rewards(cases, sample.id)
        if self.ranks is not None:
            if not validating:
                self._unranked += rewards
            rewards = self.ranks.rank(rewards)
        return [
            Scored(reward.total, reward.terms, answer, tuple(masks[i]) if masks else None)
            for i, (reward, answer) in enumerate(zip(rewards, answers, strict=True))
        ]

    def end_step(self) -> None:
        """Let the step's values count in the ranks of the next one."""
        if self.ranks is not None:
            self.ranks.add(self._unranked)
            self._unranked.clear()

    def state(self) -> dict[str, list[float]]:
        """What a run resumed after this step must know."""
        if self.ranks is None:
            return {}
        after = copy.deepcopy(self.ranks)
        after.add(self._unranked)
        return after.state()

    def restore(self, state: dict[str, list[float]]) -> None:
        if self.ranks and state:
            self.ranks.restore(state)

    async def _draw(self, sample: Sample, answers: Sequence[Answer]) -> list[list[RLE]]:
        assert self.drawer is not None
        wanted = [[MaskPrompt(*in_pixels(i, self.frame, sample.size)) for i in answer.instances] for answer in answers]
        return await self.drawer.draw(str(sample.image), wanted)

    def _rewards(self, cases: Sequence[Case], sample_id: str) -> list[Reward]:
        if self.guard is not None:
            return _fill([self.guard.score(case, sample_id) for case in cases])
        assert self.rubric is not None
        try:
            return [self.rubric.score(case) for case in cases]
        except UserError as error:
            raise UserError(f"reward={self.reward} cannot score sample {sample_id!r}: {error}") from error


def _fill(rewards: Sequence[Reward | None]) -> list[Reward]:
    """A response whose reward could not be had gets its group's mean: it then pulls in no direction."""
    known = [reward.total for reward in rewards if reward is not None]
    mean = sum(known) / len(known) if known else 0.0
    return [reward or Reward(mean, {}) for reward in rewards]

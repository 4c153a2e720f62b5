"""Models that many ask at once: what can be asked together is a bound method that takes a list, for the batcher.

Work of the same method shares a call, whichever segmenter a policy's answers are then drawn by.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from segzero.masks import RLE, decode
from segzero.pipeline import SegZeroPipeline
from segzero.policy import Policy, Reply, Request, Sampling
from segzero.prompts import render_messages
from segzero.result import Segmentation
from segzero.segmenter import Drawn, Embeddings, Prompt
from segzero.segmenter.protocol import as_logits, join
from segzero.segmenter.remembering import RememberingSegmenter
from segzero.serving.batching import Work

Ask = Callable[[Work, Any], Any]  # what `work([..., item, ...])` gives for the item


@dataclass(frozen=True, eq=False)
class Asked:
    """A question, and since when it waits."""

    image: Image.Image
    question: str
    since: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, eq=False)
class Writing:
    """What a policy is asked."""

    policy: Policy
    sampling: Sampling

    def write(self, asked: list[list[Request]]) -> list[list[Reply]]:
        """Replies to the requests of several."""
        replies = iter(self.policy.generate([each for one in asked for each in one], self.sampling))
        return [[next(replies) for _ in one] for one in asked]

    def check(self) -> None:
        """Raises if the policy can't write any more."""
        image = self.policy.frame.fit(Image.new("RGB", (64, 64)))
        messages = render_messages("the largest shape", self.policy.prompt)
        self.policy.generate([Request(image, messages)], replace(self.sampling, max_tokens=1))


@dataclass(frozen=True, eq=False)
class Drawing:
    """What a segmenter is asked."""

    segmenter: RememberingSegmenter

    def draw(self, asked: list[tuple[Image.Image, list[Prompt], list[RLE | None]]]) -> list[list[Drawn]]:
        """All masks of prompts about several images; earlier masks become logits here, where their size is known."""
        embeddings = self.segmenter.embed([image for image, *_ in asked])
        height, width = embeddings.features[0].shape[-2:]
        prompts = [
            [
                replace(prompt, mask=as_logits(decode(rle), (height, width))) if rle else prompt
                for prompt, rle in zip(*each, strict=True)
            ]
            for _, *each in asked
        ]
        return self.segmenter.decode(embeddings, prompts, all_masks=True)

    def embed(self, asked: list[Sequence[Image.Image]]) -> list[Embeddings]:
        """What is not known yet is encoded together."""
        each = iter(self.segmenter.embed_each([image for images in asked for image in images]))
        return [join([next(each) for _ in images]) for images in asked]

    def decode(self, asked: list[tuple[Embeddings, Sequence[Sequence[Prompt]], bool]]) -> list[list[list[Drawn]]]:
        """Together, as far as they want as many masks of a prompt."""
        drawn: list[list[list[Drawn]]] = [[] for _ in asked]
        for wanted in {all_masks for _, _, all_masks in asked}:
            alike = [place for place, (_, _, all_masks) in enumerate(asked) if all_masks == wanted]
            prompts = [listed for place in alike for listed in asked[place][1]]
            answers = iter(self.segmenter.decode(join([asked[place][0] for place in alike]), prompts, wanted))
            for place in alike:
                drawn[place] = [next(answers) for _ in asked[place][1]]
        return drawn


@dataclass(frozen=True, eq=False)
class Answering:
    """A policy with a segmenter, by the names that clients know."""

    policy: str
    segmenter: str
    pipeline: SegZeroPipeline
    writing: Writing
    drawing: Drawing

    def answer(self, asked: list[Asked]) -> list[Segmentation]:
        """The whole walk for several images with a question each."""
        begin = time.perf_counter()
        found = self.pipeline([each.image for each in asked], [each.question for each in asked])
        return [
            replace(result, timings={"queue": begin - each.since, **result.timings})
            for each, result in zip(asked, found, strict=True)
        ]

    def shared(self, ask: Ask) -> SegZeroPipeline:
        """The pipeline for somebody in another thread, who `ask`s and waits."""
        return replace(
            self.pipeline, policy=_SharedPolicy(self.writing, ask), segmenter=_SharedSegmenter(self.drawing, ask)
        )

    def beside(self, ask: Ask) -> "Answering":
        """The same for a thread that may use the policy itself, and `ask`s for what is drawn."""
        return replace(self, pipeline=replace(self.pipeline, segmenter=_SharedSegmenter(self.drawing, ask)))


class _SharedPolicy:
    joinable = True

    def __init__(self, writing: Writing, ask: Ask) -> None:
        policy = writing.policy
        self.name, self.frame, self.prompt = policy.name, policy.frame, policy.prompt
        self._write, self._ask = writing.write, ask

    def generate(self, requests: list[Request], sampling: Sampling = Sampling()) -> list[Reply]:
        """As the server samples, whatever is asked for: else requests could share no batch."""
        return self._ask(self._write, requests)

    def close(self) -> None:
        """The policy goes on: it is others' too."""


class _SharedSegmenter:
    def __init__(self, drawing: Drawing, ask: Ask) -> None:
        self.name, self._drawing, self._ask = drawing.segmenter.name, drawing, ask

    def embed(self, images: Sequence[Image.Image]) -> Embeddings:
        return self._ask(self._drawing.embed, images)

    def decode(
        self, embeddings: Embeddings, prompts: Sequence[Sequence[Prompt]], all_masks: bool = False
    ) -> list[list[Drawn]]:
        return self._ask(self._drawing.decode, (embeddings, prompts, all_masks))

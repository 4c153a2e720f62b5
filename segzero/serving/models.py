"""What the server asks of the models: whole batches, run by the one thread that owns them."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from segzero.masks import RLE, decode
from segzero.pipeline import SegZeroPipeline
from segzero.policy import Policy, Reply, Request, Sampling
from segzero.prompts import normalise
from segzero.result import Segmentation
from segzero.segmenter import Drawn, Embeddings, Prompt, Segmenter
from segzero.segmenter.protocol import as_logits
from segzero.segmenter.remembering import RememberingSegmenter
from segzero.serving.batching import Batcher, Work, settle
from segzero.serving.limits import Limits

Ask = Callable[[Work, Any], Any]  # what `work([..., item, ...])` gives for the item


@dataclass(frozen=True, eq=False)
class _Question:
    image: Image.Image
    question: str
    since: float = field(default_factory=time.perf_counter)


class Models:
    """A pipeline shared by all clients. Each method returns a future; cancelling it gives the place up.

    >>> models = Models(SegZeroPipeline.from_pretrained(), Limits())                    # doctest: +SKIP
    >>> models.segment(image, "the largest shape").result().think                       # doctest: +SKIP
    """

    def __init__(
        self,
        pipeline: SegZeroPipeline,
        limits: Limits,
        seen: Callable[[int, float], None] = lambda items, seconds: None,
    ) -> None:
        self.segmenter = RememberingSegmenter(pipeline.segmenter, limits.cache)
        self.pipeline = replace(pipeline, segmenter=self.segmenter, batch=limits.batch)
        self.batcher = Batcher(self._check, limits.batch, limits.inside, seen=seen)
        self._steps = ThreadPoolExecutor(limits.inside, "step")

    def segment(self, image: Image.Image, question: str) -> "Future[Segmentation]":
        """Ask the policy, draw what it names. What can't be asked is refused here, before it waits."""
        normalise(question)
        self.pipeline.policy.frame.model_size(image.size)
        return self.batcher.submit(self._segment, _Question(image, question))

    def draw(
        self, image: Image.Image, prompts: list[Prompt], earlier: list[RLE | None] | None = None
    ) -> "Future[list[Drawn]]":
        """All three masks of each prompt; `earlier` holds for each the mask to improve on, or None."""
        return self.batcher.submit(self._draw, (image, prompts, earlier or [None] * len(prompts)))

    def run(self, work: Callable[[SegZeroPipeline], Any], alone: threading.Lock) -> "Future[Any]":
        """Work that asks the models now and then, in a thread of its own while it holds the lock.

        What it asks of the pipeline it is given shares batches with what other work asks.
        """
        done: Future[Any] = Future()

        def ask(what: Work, item: Any) -> Any:
            asked = self.batcher.submit(what, item)
            done.add_done_callback(lambda given_up: asked.cancel())
            return asked.result()

        def step() -> None:
            with alone:
                if done.cancelled():
                    return
                try:
                    result = work(self._shared(ask))
                except BaseException as error:  # whatever it is: else the client would wait for ever
                    settle(done, error=error)
                else:
                    settle(done, result)

        self._steps.submit(step)
        return done

    def close(self, seconds: float) -> None:
        """Finish what was taken on."""
        self._steps.shutdown(wait=not self.batcher.why_dead)
        self.batcher.close(0 if self.batcher.why_dead else seconds)

    def _shared(self, ask: Ask) -> SegZeroPipeline:
        policy = _SharedPolicy(self.pipeline.policy, ask, self._generate)
        return replace(self.pipeline, policy=policy, segmenter=_SharedSegmenter(self.segmenter, ask))

    def _segment(self, asked: list[_Question]) -> list[Segmentation]:
        begin = time.perf_counter()
        found = self.pipeline([each.image for each in asked], [each.question for each in asked])
        return [
            replace(result, timings={"queue": begin - each.since, **result.timings})
            for each, result in zip(asked, found, strict=True)
        ]

    def _draw(self, asked: list[tuple[Image.Image, list[Prompt], list[RLE | None]]]) -> list[list[Drawn]]:
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

    def _generate(self, asked: list[list[Request]]) -> list[list[Reply]]:
        replies = iter(self.pipeline.policy.generate([each for one in asked for each in one], self.pipeline.sampling))
        return [[next(replies) for _ in one] for one in asked]

    def _check(self) -> None:
        """The smallest thing that needs both models."""
        image = Image.new("RGB", (64, 64))
        self.pipeline([image], ["the largest shape"])
        embeddings = self.segmenter.segmenter.embed([image])
        self.segmenter.decode(embeddings, [[Prompt(points=((32, 32),))]])


class _SharedPolicy:
    def __init__(self, policy: Policy, ask: Ask, generate: Work) -> None:
        self.name, self.frame, self.prompt = policy.name, policy.frame, policy.prompt
        self._ask, self._generate = ask, generate

    def generate(self, requests: list[Request], sampling: Sampling = Sampling()) -> list[Reply]:
        """As the server samples, whatever is asked for: else requests could share no batch."""
        return self._ask(self._generate, requests)

    def close(self) -> None:
        """The policy goes on: it is others' too."""


class _SharedSegmenter:
    def __init__(self, segmenter: Segmenter, ask: Ask) -> None:
        self.segmenter, self.name, self._ask = segmenter, segmenter.name, ask

    def embed(self, images: Sequence[Image.Image]) -> Embeddings:
        return self._ask(self._embed, images)

    def decode(
        self, embeddings: Embeddings, prompts: Sequence[Sequence[Prompt]], all_masks: bool = False
    ) -> list[list[Drawn]]:
        return self._ask(self._decode, (embeddings, prompts, all_masks))

    def _embed(self, asked: list[Sequence[Image.Image]]) -> list[Embeddings]:
        return [self.segmenter.embed(images) for images in asked]

    def _decode(self, asked: list[tuple[Embeddings, Sequence[Sequence[Prompt]], bool]]) -> list[list[list[Drawn]]]:
        return [self.segmenter.decode(*each) for each in asked]

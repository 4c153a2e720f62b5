"""What the server asks of the models: whole batches, run by the one thread that owns them.

A policy that takes on requests while it answers others (vLLM, another server) is asked beside that thread: a question
begins when it comes and waits for nobody's longer answer; images are encoded and masks drawn by that thread.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from PIL import Image

from segzero.errors import unknown_name
from segzero.masks import RLE
from segzero.pipeline import SegZeroPipeline
from segzero.policy import Policy
from segzero.policy.checkpoint import shown_name
from segzero.policy.openai import OpenAIPolicy
from segzero.prompts import normalise
from segzero.result import Segmentation
from segzero.segmenter import Drawn, Prompt, Segmenter
from segzero.segmenter.remembering import RememberingSegmenter
from segzero.serving.batching import Batcher, Work, settle
from segzero.serving.joining import Joining
from segzero.serving.limits import Limits
from segzero.serving.sharing import Answering, Asked, Drawing, Writing

M = TypeVar("M", Policy, Segmenter)
Place = Batcher | Joining


class Models:
    """Pipelines shared by all clients: the first policy and segmenter are the default, `choose` gives others.

    Each method that asks returns a future; cancelling it gives the place up.

    >>> models = Models(SegZeroPipeline.from_pretrained(), Limits())                    # doctest: +SKIP
    >>> models.segment(image, "the largest shape").result().think                       # doctest: +SKIP
    """

    def __init__(
        self,
        pipeline: SegZeroPipeline,
        limits: Limits,
        seen: Callable[[int, float], None] = lambda items, seconds: None,
        policies: Sequence[Policy] = (),
        segmenters: Sequence[Segmenter] = (),
    ) -> None:
        """`policies` and `segmenters`: those beside the pipeline's own."""
        drawers = _by_name([pipeline.segmenter, *segmenters])
        cache = limits.cache // len(drawers)
        drawings = {name: Drawing(RememberingSegmenter(drawer, cache)) for name, drawer in drawers.items()}
        writings = {
            name: Writing(policy, pipeline.sampling) for name, policy in _by_name([pipeline.policy, *policies]).items()
        }
        self._offered = {
            (policy, segmenter): Answering(
                policy,
                segmenter,
                replace(pipeline, policy=writing.policy, segmenter=drawing.segmenter, batch=limits.batch),
                writing,
                drawing,
            )
            for policy, writing in writings.items()
            for segmenter, drawing in drawings.items()
        }
        self.policies, self.segmenters = list(writings), list(drawings)
        self.remembering = [drawing.segmenter for drawing in drawings.values()]
        self.default = next(iter(self._offered.values()))
        self.pipeline, self.segmenter = self.default.pipeline, self.remembering[0]
        self.batcher = Batcher(self._check, limits.batch, limits.inside, seen=seen)
        self._joining: dict[Work, Joining] = {}
        self._watched: list[Place] = [self.batcher]  # what is elsewhere may dawdle, or be gone for now
        for writing in writings.values():
            if isinstance(writing.policy, OpenAIPolicy):
                self._joining[writing.write] = Joining(limits.batch, limits.inside)
            elif writing.policy.joinable:
                self._joining[writing.write] = Joining(limits.batch, limits.inside, writing.check, self.die)
                self._watched.append(self._joining[writing.write])
        self._places: list[Place] = [self.batcher, *self._joining.values()]
        self._steps = ThreadPoolExecutor(limits.inside, "step")

    def choose(self, policy: str | None = None, segmenter: str | None = None) -> Answering:
        """The models of those names; without a name, the first."""
        policy, segmenter = policy or self.policies[0], segmenter or self.segmenters[0]
        if policy not in self.policies:
            raise unknown_name("policy", policy, self.policies)
        if segmenter not in self.segmenters:
            raise unknown_name("segmenter", segmenter, self.segmenters)
        return self._offered[policy, segmenter]

    def segment(self, image: Image.Image, question: str, chosen: Answering | None = None) -> "Future[Segmentation]":
        """Ask the policy, draw what it names. What can't be asked is refused here, before it waits."""
        chosen = chosen or self.default
        normalise(question)
        chosen.pipeline.policy.frame.model_size(image.size)
        asked = Asked(image, question)
        joining = self._joining.get(chosen.writing.write)
        if joining is not None:
            return joining.submit(chosen.beside(self._ask).answer, asked)
        return self.batcher.submit(chosen.answer, asked)

    def draw(
        self,
        image: Image.Image,
        prompts: list[Prompt],
        earlier: list[RLE | None] | None = None,
        chosen: Answering | None = None,
    ) -> "Future[list[Drawn]]":
        """All three masks of each prompt; `earlier` holds for each the mask to improve on, or None."""
        drawing = (chosen or self.default).drawing
        return self.batcher.submit(drawing.draw, (image, prompts, earlier or [None] * len(prompts)))

    def run(
        self, work: Callable[[SegZeroPipeline], Any], alone: threading.Lock, chosen: Answering | None = None
    ) -> "Future[Any]":
        """Work that asks the models now and then, in a thread of its own while it holds the lock.

        What it asks of the pipeline it is given shares batches with what other work asks.
        """
        done: Future[Any] = Future()

        def ask(what: Work, item: Any) -> Any:
            place: Place = self._joining.get(what, self.batcher)
            asked = place.submit(what, item)
            done.add_done_callback(lambda given_up: asked.cancel())
            return asked.result()

        def step() -> None:
            with alone:
                if done.cancelled():
                    return
                try:
                    result = work((chosen or self.default).shared(ask))
                except BaseException as error:  # whatever it is: else the client would wait for ever
                    settle(done, error=error)
                else:
                    settle(done, result)

        self._steps.submit(step)
        return done

    def waiting(self) -> int:
        """How many wait for a model."""
        return sum(len(place) for place in self._places)

    def wait(self) -> float:
        """Seconds until what waits now will be done, by the pace of late."""
        return max(place.wait() for place in self._places)

    def die(self, why: str) -> None:
        """No more answers: all who wait are told."""
        self.batcher.die(why)
        for joining in self._joining.values():
            joining.close(why)

    def busy(self) -> bool:
        """Whether a thread is still at work, here or waiting for another server."""
        return any(place.busy_since is not None for place in self._places)

    def busy_since(self) -> float | None:
        """Since when a model of this process has been busy with the oldest that it began; time.monotonic."""
        return min((since for place in self._watched if (since := place.busy_since) is not None), default=None)

    def close(self, seconds: float) -> None:
        """Finish what was taken on; whoever still waits for a policy beside has had the time of a request."""
        for joining in self._joining.values():
            joining.close()
        self._steps.shutdown(wait=not self.batcher.why_dead)
        self.batcher.close(0 if self.batcher.why_dead else seconds)

    def _ask(self, what: Work, item: Any) -> Any:
        return self.batcher.submit(what, item).result()

    def _check(self) -> None:
        """The smallest thing that needs each of the models that this thread owns."""
        for name in self.policies:
            if (writing := self.choose(name).writing).write not in self._joining:
                writing.check()
        for segmenter in self.remembering:
            embeddings = segmenter.segmenter.embed([Image.new("RGB", (64, 64))])
            segmenter.decode(embeddings, [[Prompt(points=((32, 32),))]])


def _by_name(models: Sequence[M]) -> dict[str, M]:
    named: dict[str, M] = {}
    for model in models:
        name = first = shown_name(model.name)
        count = 1
        while name in named:
            count += 1
            name = f"{first} ({count})"
        named[name] = model
    return named

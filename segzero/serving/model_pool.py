"""What the server asks of the models: whole batches, run by the one thread that owns them.

A policy that takes on requests while it answers others (vLLM, another server) is asked beside that thread: a question
begins when it comes and waits for nobody's longer answer; images are encoded and masks drawn by that thread.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from PIL import Image

from segzero import shipped
from segzero.errors import unknown_name
from segzero.masks import RLE, decode
from segzero.pipeline import Query, SegZeroPipeline
from segzero.policy import Policy, Reply, Request, Sampling, load_policy, pick_backend
from segzero.policy.checkpoint import shown_name
from segzero.policy.openai import OpenAIPolicy
from segzero.prompts import normalise, render_messages
from segzero.result import Segmentation
from segzero.segmenter import Embeddings, MaskPrediction, MaskPrompt, Segmenter, load_segmenter
from segzero.segmenter.cache import CachedSegmenter
from segzero.segmenter.protocol import as_logits, join
from segzero.serving.batching import Batcher, Joining, Work, settle
from segzero.serving.limits import Limits
from segzero.serving.options import Extras

M = TypeVar("M", Policy, Segmenter)
Place = Batcher | Joining


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

    segmenter: CachedSegmenter

    def draw(self, asked: list[tuple[Image.Image, list[MaskPrompt], list[RLE | None]]]) -> list[list[MaskPrediction]]:
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

    def decode(
        self, asked: list[tuple[Embeddings, Sequence[Sequence[MaskPrompt]], bool]]
    ) -> list[list[list[MaskPrediction]]]:
        """Together, as far as they want as many masks of a prompt."""
        drawn: list[list[list[MaskPrediction]]] = [[] for _ in asked]
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
        found = self.pipeline.run([Query(each.image, each.question) for each in asked])
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
    supports_concurrency = True

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
        self, embeddings: Embeddings, prompts: Sequence[Sequence[MaskPrompt]], all_masks: bool = False
    ) -> list[list[MaskPrediction]]:
        return self._ask(self._drawing.decode, (embeddings, prompts, all_masks))


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
        drawings = {name: Drawing(CachedSegmenter(drawer, cache)) for name, drawer in drawers.items()}
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
            elif writing.policy.supports_concurrency:
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
        prompts: list[MaskPrompt],
        earlier: list[RLE | None] | None = None,
        chosen: Answering | None = None,
    ) -> "Future[list[MaskPrediction]]":
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
            segmenter.decode(embeddings, [[MaskPrompt(points=((32, 32),))]])


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


RETRIES = 1  # of a policy behind another server: whoever waits here has no time for more


@dataclass(frozen=True)
class Wanted:
    """How models are to be loaded, all alike."""

    policy_backend: str = "auto"
    segmenter_backend: str = "auto"
    device: str = "auto"
    frame: str | None = None
    prompt: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    seconds: float = 60.0  # that a request may take


def load(policies: Sequence[str], segmenters: Sequence[str], wanted: Wanted) -> tuple[SegZeroPipeline, Extras]:
    """The first of each as a pipeline, the others as extras; the small models that come with the package for none."""
    drawers = [
        load_segmenter(path, wanted.segmenter_backend, device=wanted.device)
        for path in segmenters or [str(shipped.segmenter_path())]
    ]
    speakers = []
    for path in policies or [str(shipped.policy_path())]:
        backend = wanted.policy_backend
        if backend == "auto":
            backend = pick_backend(path, wanted.device)
        options: dict[str, Any] = {"timeout": wanted.seconds, "retries": RETRIES} if backend == "openai" else {}
        speakers.append(
            load_policy(path, backend, frame=wanted.frame, prompt=wanted.prompt, device=wanted.device, **options)
        )
    pipeline = SegZeroPipeline(speakers[0], drawers[0], sampling=wanted.sampling)
    return pipeline, Extras(policies=tuple(speakers[1:]), segmenters=tuple(drawers[1:]))

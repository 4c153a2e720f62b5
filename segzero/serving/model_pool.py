"""The models of a server, their queues, and how they are loaded.

One thread, the batcher's, owns all models. A policy that answers several requests at once (vLLM, another server) has
a queue of its own beside it: a question begins as soon as there is room and does not wait for longer answers, while
the batcher's thread encodes images and draws masks.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from PIL import Image

from segzero import shipped
from segzero.errors import unknown_name
from segzero.mask_model.protocol import MaskModel
from segzero.mask_pipeline import MaskPipeline
from segzero.masks import RLE, decode
from segzero.pipeline import Pipeline, Query, SegZeroPipeline
from segzero.policy import Request, Sampling, load_policy, pick_backend
from segzero.policy.checkpoint import shown_name
from segzero.policy.openai import OpenAIPolicy
from segzero.prompts import normalise, render_messages
from segzero.result import Segmentation
from segzero.segmenter import MaskPrediction, MaskPrompt, load_segmenter
from segzero.segmenter.cache import CachedSegmenter
from segzero.segmenter.protocol import as_logits
from segzero.serving.batching import Batcher, BatchKey, ConcurrentQueue, Work, complete
from segzero.serving.limits import Limits
from segzero.serving.options import ServerOptions
from segzero.serving.shared_models import Call, SharedMaskModel, SharedPolicy, SharedSegmenter

T = TypeVar("T")
RETRIES = 1  # of a policy behind another server: a waiting request has no time for more


@dataclass(frozen=True, eq=False)
class SegmentRequest:
    """A question about an image, and when it was queued."""

    image: Image.Image
    question: str
    queued_at: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, eq=False)
class DrawRequest:
    """Prompts about an image, and for each of them the earlier mask to improve on, or None."""

    image: Image.Image
    prompts: Sequence[MaskPrompt]
    earlier_masks: Sequence[RLE | None]


@dataclass(frozen=True, eq=False)
class ModelPair:
    """A policy or a mask model, and a segmenter, by the names that clients choose them with."""

    policy: str
    segmenter: str
    pipeline: Pipeline  # the models themselves, the segmenter with its cache
    cached_segmenter: CachedSegmenter

    def shared(self, call: Call) -> Pipeline:
        """The pipeline for another thread, whose models are used through `call`."""
        answerer = self.pipeline.answerer
        stand_in = SharedMaskModel if isinstance(self.pipeline, MaskPipeline) else SharedPolicy
        return self.pipeline.with_models(stand_in(self.policy, answerer, call), self._segmenter(call))

    def drawing_with(self, call: Call) -> Pipeline:
        """The pipeline for a thread that uses the policy itself, and the segmenter through `call`."""
        return self.pipeline.with_models(self.pipeline.answerer, self._segmenter(call))

    def _segmenter(self, call: Call) -> SharedSegmenter:
        return SharedSegmenter(self.segmenter, self.cached_segmenter, call)


class ModelPool:
    """All policies, mask models and segmenters of a server, used by all requests; the first ones are the default.

    `segment`, `draw` and `run_step` return futures; cancelling one gives up its place in the queue.

    >>> pool = ModelPool(SegZeroPipeline.from_pretrained(), Limits())                   # doctest: +SKIP
    >>> pool.segment(image, "the largest shape").result().think                         # doctest: +SKIP
    """

    def __init__(
        self,
        pipeline: Pipeline,
        limits: Limits,
        on_batch: Callable[[int, float], None] = lambda items, seconds: None,
        options: ServerOptions = ServerOptions(),
    ) -> None:
        """Begin the queues; the models of the options are further ones beside the pipeline's own."""
        segmenter = pipeline.segmenter
        assert segmenter is not None, "a server draws by hand, too"
        others = [pipeline.with_models(policy, segmenter) for policy in options.policies]
        masks = [MaskPipeline(model) for model in options.mask_models]
        pipelines = _by_name([pipeline, *others, *masks], lambda one: one.answerer)
        named_segmenters = _by_name([segmenter, *options.segmenters], lambda one: one)
        cached = {
            name: CachedSegmenter(segmenter, limits.cache // len(named_segmenters))
            for name, segmenter in named_segmenters.items()
        }
        self.policies, self.segmenters = list(pipelines), list(named_segmenters)  # names, mask models among policies
        self.mask_models = [name for name, one in pipelines.items() if isinstance(one, MaskPipeline)]
        named = [(name, one.answerer) for name, one in pipelines.items()] + list(named_segmenters.items())
        self.shipped = [name for name, model in named if shipped.is_shipped(model.name)]
        self.cached_segmenters = list(cached.values())
        self._pairs = {
            (name, segmenter_name): ModelPair(name, segmenter_name, one.with_models(one.answerer, segmenter), segmenter)
            for name, one in pipelines.items()
            for segmenter_name, segmenter in cached.items()
        }
        for pair in self._pairs.values():
            pair.pipeline.batch = limits.batch
        self.default = self._pairs[self.policies[0], self.segmenters[0]]
        self.batcher = Batcher(self._check_owned_models, limits.batch, limits.max_concurrent, on_batch=on_batch)
        self._concurrent: dict[str, ConcurrentQueue] = {}  # by the policy's name
        self._watched: list[Batcher | ConcurrentQueue] = [self.batcher]  # another server may be slow, or gone for now
        for name, one in pipelines.items():
            if isinstance(one.answerer, OpenAIPolicy):
                self._concurrent[name] = ConcurrentQueue(limits.batch, limits.max_concurrent)
            elif getattr(one.answerer, "supports_concurrency", False):
                check = partial(check_answerer, one)
                self._concurrent[name] = ConcurrentQueue(limits.batch, limits.max_concurrent, check, self.fail)
                self._watched.append(self._concurrent[name])
        self._queues: list[Batcher | ConcurrentQueue] = [self.batcher, *self._concurrent.values()]
        self._steps = ThreadPoolExecutor(limits.max_concurrent, "step")

    def choose(self, policy: str | None = None, segmenter: str | None = None) -> ModelPair:
        """Look up the models of those names, a mask model by that of a policy; the default for None."""
        policy, segmenter = policy or self.policies[0], segmenter or self.segmenters[0]
        if policy not in self.policies:
            raise unknown_name("policy", policy, self.policies)
        if segmenter not in self.segmenters:
            raise unknown_name("segmenter", segmenter, self.segmenters)
        return self._pairs[policy, segmenter]

    def segment(self, image: Image.Image, question: str, models: ModelPair | None = None) -> "Future[Segmentation]":
        """Answer a question with masks. Questions and images that can't be used are refused before they wait."""
        models = models or self.default
        normalise(question)
        models.pipeline.fits(image)
        request = SegmentRequest(image, question)
        queue = self._concurrent.get(models.policy)
        if queue is not None:
            return queue.submit(partial(segment_batch, models.drawing_with(self._call)), request)
        key = BatchKey("segment", f"{models.policy} with {models.segmenter}")
        return self.batcher.submit(key, partial(segment_batch, models.pipeline), request)

    def draw(
        self,
        image: Image.Image,
        prompts: list[MaskPrompt],
        earlier_masks: list[RLE | None] | None = None,
        models: ModelPair | None = None,
    ) -> "Future[list[MaskPrediction]]":
        """Draw all three masks of each prompt; `earlier_masks`: for each prompt the mask to improve on, or None."""
        models = models or self.default
        request = DrawRequest(image, prompts, earlier_masks or [None] * len(prompts))
        key = BatchKey("draw", models.segmenter)
        return self.batcher.submit(key, partial(draw_batch, models.cached_segmenter), request)

    def run_step(
        self, step: Callable[[Pipeline], T], lock: threading.Lock, models: ModelPair | None = None
    ) -> "Future[T]":
        """Run a step in a thread of its own while it holds the lock.

        The step may call the pipeline that it is given as often as it likes; each call shares batches with others'.
        """
        future: Future[T] = Future()

        def call(key: BatchKey, work: Work, item: Any) -> Any:
            submitted = self._submit(key, work, item)
            future.add_done_callback(lambda cancelled: submitted.cancel())
            return submitted.result()

        def run() -> None:
            with lock:
                if future.cancelled():
                    return
                try:
                    result = step((models or self.default).shared(call))
                except BaseException as error:  # even SystemExit: without a result the client would wait for ever
                    complete(future, error=error)
                else:
                    complete(future, result)

        self._steps.submit(run)
        return future

    def waiting(self) -> int:
        """Count the requests that wait for a model."""
        return sum(len(queue) for queue in self._queues)

    def expected_wait(self) -> float:
        """Estimate the seconds until everything queued now is done."""
        return max(queue.expected_wait() for queue in self._queues)

    @property
    def failure(self) -> str:
        """The reason why the models failed; empty while they work."""
        return self.batcher.failure

    def fail(self, reason: str) -> None:
        """Give ModelUnavailable to all requests that wait, and to all that come later."""
        self.batcher.fail(reason)
        for queue in self._concurrent.values():
            queue.close(reason)

    def busy(self) -> bool:
        """Whether a thread is still at work, with a model or waiting for another server."""
        return any(queue.busy_since is not None for queue in self._queues)

    def busy_since(self) -> float | None:
        """Start of the oldest call that a model of this process is working on, time.monotonic; None if idle."""
        return min((since for queue in self._watched if (since := queue.busy_since) is not None), default=None)

    def close(self, seconds: float) -> None:
        """Finish what the batcher has queued; the requests of the other queues have had their time already."""
        for queue in self._concurrent.values():
            queue.close()
        self._steps.shutdown(wait=not self.failure)
        self.batcher.close(0 if self.failure else seconds)

    def _submit(self, key: BatchKey, work: Work, item: Any) -> "Future[Any]":
        queue = self._concurrent.get(key.model) if key.kind == "generate" else None
        return self.batcher.submit(key, work, item) if queue is None else queue.submit(work, item)

    def _call(self, key: BatchKey, work: Work, item: Any) -> Any:
        return self._submit(key, work, item).result()

    def _check_owned_models(self) -> None:
        """Use each of the models that the batcher's thread owns, in the smallest way; raises if one fails."""
        for name in self.policies:
            if name not in self._concurrent:
                check_answerer(self.choose(name).pipeline)
        for segmenter in self.cached_segmenters:
            embeddings = segmenter.segmenter.embed([Image.new("RGB", (64, 64))])  # without the cache
            segmenter.decode(embeddings, [[MaskPrompt(points=((32, 32),))]])


def segment_batch(pipeline: Pipeline, batch: list[SegmentRequest]) -> list[Segmentation]:
    """Answer questions with masks; the timings of each include the seconds in the queue."""
    begin = time.perf_counter()
    results = pipeline.run([Query(request.image, request.question) for request in batch])
    return [
        replace(result, timings={"queue": begin - request.queued_at, **result.timings})
        for request, result in zip(batch, results, strict=True)
    ]


def draw_batch(segmenter: CachedSegmenter, batch: list[DrawRequest]) -> list[list[MaskPrediction]]:
    """Draw all three masks of every prompt."""
    embeddings = segmenter.embed([request.image for request in batch])
    height, width = embeddings.features[0].shape[-2:]  # earlier masks become logits here, where their size is known
    prompts = [
        [
            prompt if rle is None else replace(prompt, mask=as_logits(decode(rle), (height, width)))
            for prompt, rle in zip(request.prompts, request.earlier_masks, strict=True)
        ]
        for request in batch
    ]
    return segmenter.decode(embeddings, prompts, all_masks=True)


def check_answerer(pipeline: Pipeline) -> None:
    """Generate a single token, or answer with a mask; raises if the model fails."""
    image, question = Image.new("RGB", (64, 64)), "the largest shape"
    if isinstance(pipeline, SegZeroPipeline):
        policy = pipeline.policy
        request = Request(policy.frame.fit(image), render_messages(question, policy.prompt))
        policy.generate([request], replace(pipeline.sampling, max_tokens=1))
    else:
        pipeline.run([Query(image, question)])


def _by_name(several: Sequence[T], model_of: Callable[[T], Any]) -> dict[str, T]:
    """Name each for clients by its model; a name that is taken gets a number."""
    named: dict[str, T] = {}
    for one in several:
        name = first = shown_name(model_of(one).name)
        count = 1
        while name in named:
            count += 1
            name = f"{first} ({count})"
        named[name] = one
    return named


@dataclass(frozen=True)
class LoadOptions:
    """Backends, device and sampling of the models that a server loads, the same for all."""

    policy_backend: str = "auto"
    segmenter_backend: str = "auto"
    device: str = "auto"
    frame: str | None = None
    prompt: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    seconds: float = 60.0  # that a request may take


def load_models(
    policies: Sequence[str], segmenters: Sequence[str], options: LoadOptions, mask_models: Sequence[str] = ()
) -> tuple[Pipeline, ServerOptions]:
    """Load the models of a server: the first of each as a pipeline, the others as options.

    An empty list stands for the small model that comes with the package; mask models alone need no policy. Where
    neither is named, the small mask model is a choice, too.
    """
    from segzero.mask_model.load import load_mask_model

    if not policies and not mask_models:
        policies, mask_models = [str(shipped.policy_path())], [str(shipped.mask_model_path())]
    masks: list[MaskModel] = [load_mask_model(path, options.device) for path in mask_models]
    loaded_segmenters = [
        load_segmenter(path, options.segmenter_backend, device=options.device)
        for path in segmenters or [str(shipped.segmenter_path())]
    ]
    if masks and not policies:
        first = MaskPipeline(masks[0], segmenter=loaded_segmenters[0])
        return first, ServerOptions(segmenters=tuple(loaded_segmenters[1:]), mask_models=tuple(masks[1:]))
    loaded_policies = []
    for path in policies:
        backend = options.policy_backend
        if backend == "auto":
            backend = pick_backend(path, options.device)
        more: dict[str, Any] = {"timeout": options.seconds, "retries": RETRIES} if backend == "openai" else {}
        loaded_policies.append(
            load_policy(path, backend, frame=options.frame, prompt=options.prompt, device=options.device, **more)
        )
    pipeline = SegZeroPipeline(loaded_policies[0], loaded_segmenters[0], sampling=options.sampling)
    return pipeline, ServerOptions(tuple(loaded_policies[1:]), tuple(loaded_segmenters[1:]), tuple(masks))

"""Models that many requests share: stand-ins whose calls wait in a queue, and the batches that answer them.

The thread of the models owns the real policy and segmenter. Another thread uses a `SharedPolicy` and a
`SharedSegmenter`: each call submits an item and waits, and items with the same key are answered by one of the
`..._batch` functions below.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from PIL import Image

from segzero.masks import RLE, decode
from segzero.pipeline import Query, SegZeroPipeline
from segzero.policy import Policy, Reply, Request, Sampling
from segzero.result import Segmentation
from segzero.segmenter import Embeddings, MaskPrediction, MaskPrompt
from segzero.segmenter.cache import CachedSegmenter
from segzero.segmenter.protocol import as_logits, join
from segzero.serving.batching import BatchKey, Work

Call = Callable[[BatchKey, Work, Any], Any]  # submit an item of some work, and wait for its result


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


class SharedPolicy:
    """A policy that other threads use as well: requests with the same sampling share a batch."""

    supports_concurrency = True

    def __init__(self, model: str, policy: Policy, call: Call) -> None:
        self.name, self.frame, self.prompt = policy.name, policy.frame, policy.prompt
        self._model, self._policy, self._call = model, policy, call

    def generate(self, requests: list[Request], sampling: Sampling = Sampling()) -> list[Reply]:
        """Generate one reply per request, in order."""
        key = BatchKey("generate", self._model, sampling)
        return self._call(key, partial(generate_batch, self._policy, sampling), requests)

    def close(self) -> None:
        """Keep the policy open, as other threads use it."""


class SharedSegmenter:
    """A segmenter that other threads use as well."""

    def __init__(self, model: str, segmenter: CachedSegmenter, call: Call) -> None:
        self.name = segmenter.name
        self._model, self._segmenter, self._call = model, segmenter, call

    def embed(self, images: Sequence[Image.Image]) -> Embeddings:
        """Encode images, once each."""
        return self._call(BatchKey("embed", self._model), partial(embed_batch, self._segmenter), images)

    def decode(
        self, embeddings: Embeddings, prompts: Sequence[Sequence[MaskPrompt]], all_masks: bool = False
    ) -> list[list[MaskPrediction]]:
        """Draw the objects of each image."""
        key = BatchKey("decode", self._model, all_masks)
        return self._call(key, partial(decode_batch, self._segmenter, all_masks), (embeddings, prompts))


def segment_batch(pipeline: SegZeroPipeline, batch: list[SegmentRequest]) -> list[Segmentation]:
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


def generate_batch(policy: Policy, sampling: Sampling, batch: list[list[Request]]) -> list[list[Reply]]:
    """Generate the replies to several lists of requests in one call."""
    replies = iter(policy.generate([request for requests in batch for request in requests], sampling))
    return [[next(replies) for _ in requests] for requests in batch]


def embed_batch(segmenter: CachedSegmenter, batch: list[Sequence[Image.Image]]) -> list[Embeddings]:
    """Encode several lists of images; those that are not in the cache share one call."""
    embeddings = iter(segmenter.embed_each([image for images in batch for image in images]))
    return [join([next(embeddings) for _ in images]) for images in batch]


def decode_batch(
    segmenter: CachedSegmenter, all_masks: bool, batch: list[tuple[Embeddings, Sequence[Sequence[MaskPrompt]]]]
) -> list[list[list[MaskPrediction]]]:
    """Draw the objects of several lists of images in one call."""
    embeddings = join([embeddings for embeddings, _ in batch])
    prompts = [listed for _, each in batch for listed in each]
    predictions = iter(segmenter.decode(embeddings, prompts, all_masks))
    return [[next(predictions) for _ in each] for _, each in batch]

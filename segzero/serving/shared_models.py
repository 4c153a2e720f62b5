"""Models that many requests share: stand-ins whose calls wait in a queue, and the batches that answer them.

The thread of the models owns the real ones. Another thread uses a `SharedPolicy` or `SharedMaskModel` and a
`SharedSegmenter`: each call submits an item and waits, and items with the same key are answered by one of the
`..._batch` functions below.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from PIL import Image

from segzero.mask_model.protocol import AnsweredMask, MaskModel, MaskQuestion
from segzero.policy import Policy, Reply, Request, Sampling
from segzero.segmenter import Embeddings, MaskPrediction, MaskPrompt
from segzero.segmenter.cache import CachedSegmenter
from segzero.segmenter.protocol import join
from segzero.segmenter.words import BOX_THRESHOLD, PhrasePrediction, PhrasePrompt
from segzero.serving.batching import BatchKey, Work

Call = Callable[[BatchKey, Work, Any], Any]  # submit an item of some work, and wait for its result


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
        self.name, self.reads_text = segmenter.name, segmenter.reads_text
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

    def find(
        self, embeddings: Embeddings, phrases: Sequence[Sequence[PhrasePrompt]], threshold: float = BOX_THRESHOLD
    ) -> list[list[PhrasePrediction]]:
        """Find the instances of phrases in each image."""
        key = BatchKey("find", self._model, threshold)
        return self._call(key, partial(find_batch, self._segmenter, threshold), (embeddings, phrases))


class SharedMaskModel:
    """A mask model that other threads use as well."""

    def __init__(self, model: str, mask_model: MaskModel, call: Call) -> None:
        self.name, self.kind = mask_model.name, mask_model.kind
        self.memory, self.protocol = mask_model.memory, mask_model.protocol
        self._model, self._mask_model, self._call = model, mask_model, call

    def answer(self, questions: Sequence[MaskQuestion]) -> list[AnsweredMask]:
        """Answer each question, in order."""
        return self._call(BatchKey("answer", self._model), partial(answer_batch, self._mask_model), questions)

    def fits(self, image: Image.Image) -> None:
        """Refuse an image of a shape that the model can't see."""
        self._mask_model.fits(image)

    def close(self) -> None:
        """Keep the model open, as other threads use it."""


def answer_batch(model: MaskModel, batch: list[Sequence[MaskQuestion]]) -> list[list[AnsweredMask]]:
    """Answer several lists of questions in one call."""
    answers = iter(model.answer([question for questions in batch for question in questions]))
    return [[next(answers) for _ in questions] for questions in batch]


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


def find_batch(
    segmenter: CachedSegmenter, threshold: float, batch: list[tuple[Embeddings, Sequence[Sequence[PhrasePrompt]]]]
) -> list[list[list[PhrasePrediction]]]:
    """Find phrases in several lists of images; each image is asked on its own, whoever shares the call."""
    return [segmenter.find(embeddings, phrases, threshold) for embeddings, phrases in batch]

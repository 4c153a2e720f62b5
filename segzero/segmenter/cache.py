"""A segmenter that remembers encoded images, up to a number of bytes."""

from collections.abc import Sequence

from PIL import Image

from segzero.images import pixels_key
from segzero.lru import LRUCache
from segzero.segmenter.protocol import Embeddings, MaskPrediction, MaskPrompt, Segmenter, join
from segzero.segmenter.words import BOX_THRESHOLD, PhrasePrediction, PhrasePrompt, reads_text


class CachedSegmenter:
    """Wraps a segmenter, and does not encode the same pixels twice. For one thread at a time."""

    def __init__(self, segmenter: Segmenter, limit: int) -> None:
        self.segmenter, self.name, self.reads_text = segmenter, segmenter.name, segmenter.reads_text
        self.cache = LRUCache[Embeddings](limit, lambda embeddings: embeddings.nbytes)
        self.encoded = self.cache_hits = 0  # images so far

    def embed(self, images: Sequence[Image.Image]) -> Embeddings:
        """Encode images, each that is not in the cache once."""
        return join(self.embed_each(images))

    def embed_each(self, images: Sequence[Image.Image]) -> list[Embeddings]:
        """Encode images as `embed` does, each in memory of its own, which the cache shares."""
        keys = [pixels_key(image) for image in images]
        known = {key: found for key in keys if (found := self.cache.get(key)) is not None}
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in known}
        if new:
            embeddings = self.segmenter.embed(list(new.values()))
            for number, key in enumerate(new):
                known[key] = embeddings[number].copy()
                self.cache.put(key, known[key])
        self.encoded += len(new)
        self.cache_hits += len(images) - len(new)
        return [known[key] for key in keys]

    def decode(
        self, embeddings: Embeddings, prompts: Sequence[Sequence[MaskPrompt]], all_masks: bool = False
    ) -> list[list[MaskPrediction]]:
        """Predict masks with the wrapped segmenter."""
        return self.segmenter.decode(embeddings, prompts, all_masks)

    def find(
        self, embeddings: Embeddings, phrases: Sequence[Sequence[PhrasePrompt]], threshold: float = BOX_THRESHOLD
    ) -> list[list[PhrasePrediction]]:
        """Find instances of phrases with the wrapped segmenter, if it reads text."""
        assert reads_text(self.segmenter)
        return self.segmenter.find(embeddings, phrases, threshold)

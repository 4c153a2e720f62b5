"""Images that are asked about again and again: encoded once, kept up to a number of bytes."""

from collections.abc import Sequence

from PIL import Image

from segzero.images import pixels_key
from segzero.lru import LRUCache
from segzero.segmenter.protocol import Embeddings, MaskPrediction, MaskPrompt, Segmenter, join


class CachedSegmenter:
    """A segmenter that does not encode the same pixels twice; to whoever calls it, it is the one it wraps.

    For one thread at a time.
    """

    def __init__(self, segmenter: Segmenter, limit: int) -> None:
        self.segmenter, self.name = segmenter, segmenter.name
        self.cache = LRUCache[Embeddings](limit, lambda embeddings: embeddings.nbytes)
        self.encoded = self.remembered = 0  # images so far

    def embed(self, images: Sequence[Image.Image]) -> Embeddings:
        """Encode the images that are not known, once each."""
        return join(self.embed_each(images))

    def embed_each(self, images: Sequence[Image.Image]) -> list[Embeddings]:
        """The same, each in memory of its own, shared with the cache: a dialogue keeps it for long."""
        keys = [pixels_key(image) for image in images]
        known = {key: found for key in keys if (found := self.cache.get(key)) is not None}
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in known}
        if new:
            made = self.segmenter.embed(list(new.values()))
            for number, key in enumerate(new):
                known[key] = made[number].copy()
                self.cache.put(key, known[key])
        self.encoded += len(new)
        self.remembered += len(images) - len(new)
        return [known[key] for key in keys]

    def decode(
        self, embeddings: Embeddings, prompts: Sequence[Sequence[MaskPrompt]], all_masks: bool = False
    ) -> list[list[MaskPrediction]]:
        """As the segmenter draws."""
        return self.segmenter.decode(embeddings, prompts, all_masks)

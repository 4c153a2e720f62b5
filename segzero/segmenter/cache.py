"""Images that are asked about again and again: encoded once, kept up to a number of bytes."""

from collections import OrderedDict
from collections.abc import Sequence

from PIL import Image

from segzero.images import pixels_key
from segzero.segmenter.protocol import Embeddings, MaskPrediction, MaskPrompt, Segmenter, join


class EmbeddingCache:
    """Encoded images by name, up to a number of bytes; the least used are thrown out first."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._kept: OrderedDict[str, Embeddings] = OrderedDict()

    def get(self, key: str) -> Embeddings | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: str, embeddings: Embeddings) -> None:
        self._kept[key] = embeddings
        self.held += embeddings.nbytes
        while self.held > self.limit and self._kept:
            self.held -= self._kept.popitem(last=False)[1].nbytes


class CachedSegmenter:
    """A segmenter that does not encode the same pixels twice; to whoever calls it, it is the one it wraps.

    For one thread at a time.
    """

    def __init__(self, segmenter: Segmenter, limit: int) -> None:
        self.segmenter, self.name = segmenter, segmenter.name
        self.cache = EmbeddingCache(limit)
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

"""SAM2 beside the trainer: a Ray actor that encodes an image once for all answers about it.

Requests that arrive together are drawn together. Encoded images are kept up to a number of bytes: encoding is
nearly the whole cost (4.5 s against 0.09 s per mask for SAM2 tiny on a CPU), and every image comes back in each
epoch and in each validation.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from segzero.images import load_image
from segzero.lru import LRUCache
from segzero.masks import RLE, encode
from segzero.refinement.correction import Correction, MaskCorrection
from segzero.segmenter.protocol import Embeddings, Logits, MaskPrompt, Segmenter, enlarge
from segzero.segmenter.words import PhrasePrompt, draw_phrases

if TYPE_CHECKING:
    import torch

# By answer: one prompt per instance, its phrases, or what a look draws: objects, or an amended mask.
Prompts = list[list[MaskPrompt] | list[PhrasePrompt] | list[Correction]]
Masks = list[list[RLE]]  # by answer: one mask per prompt, or all that its phrases name
DrawMasks = Callable[[str, Prompts], Awaitable[Masks]]  # the image's path, and what each answer wants drawn


@dataclass(eq=False)
class _Request:
    path: str
    prompts: Prompts
    masks: "asyncio.Future[Masks]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class SegmenterActor:
    """Batches the requests of all rollouts; `load` is called where the actor runs, so that no model is pickled.

    `ray.remote(SegmenterActor)` makes the actor. The class itself does not know about Ray.
    """

    def __init__(self, load: Callable[[], Segmenter], cache_bytes: int = 2 << 30, most_images: int = 16) -> None:
        self.segmenter, self.most_images = load(), most_images
        self.cache = LRUCache[Embeddings](cache_bytes, lambda embeddings: embeddings.nbytes)
        self.encoded = 0  # images so far
        self._queue: asyncio.Queue[_Request] = asyncio.Queue()
        self._batches: asyncio.Task | None = None

    async def draw(self, path: str, prompts: Prompts) -> Masks:
        """Draw a mask for every prompt of every answer about one image."""
        if not any(prompts):
            return [[] for _ in prompts]
        if self._batches is None:
            self._batches = asyncio.create_task(self._draw_batches())
        request = _Request(path, prompts)
        self._queue.put_nowait(request)
        return await request.masks

    async def ping(self) -> dict[str, int]:
        """Answer, which a dead actor does not, with the images encoded so far and the bytes kept."""
        return {"encoded": self.encoded, "cache_bytes": self.cache.held}

    async def _draw_batches(self) -> None:
        while True:
            requests = [await self._queue.get()]
            while len(requests) < self.most_images and not self._queue.empty():
                requests.append(self._queue.get_nowait())
            try:
                results = await asyncio.to_thread(self._draw, requests)
            except Exception as error:  # raised in each caller, which would otherwise wait for ever
                for request in requests:
                    if not request.masks.done():  # a caller may have given up
                        request.masks.set_exception(error)
            else:
                for request, masks in zip(requests, results, strict=True):
                    if not request.masks.done():
                        request.masks.set_result(masks)

    def _draw(self, requests: Sequence[_Request]) -> list[Masks]:
        embeddings = self._embed(dict.fromkeys(request.path for request in requests))
        drawn = []
        for request in requests:
            image = embeddings[request.path]
            grid = tuple(image.features[0].shape[-2:])
            by_hand = [
                [
                    one.prompt(grid) if isinstance(one, MaskCorrection) else one
                    for one in answer
                    if not isinstance(one, PhrasePrompt)
                ]
                for answer in request.prompts
            ]
            in_words = [[one for one in answer if isinstance(one, PhrasePrompt)] for answer in request.prompts]
            [predictions] = self.segmenter.decode(image, [[prompt for answer in by_hand for prompt in answer]])
            device = image.features[0].device  # the GPU, where there is one

            def to_rle(logits: Logits, image: Embeddings = image, device: "torch.device" = device) -> RLE:
                return encode(enlarge(logits[None], image.sizes[0], device)[0])

            masks = iter([to_rle(one.logits[0]) for one in predictions])
            drawn.append([
                [to_rle(one.logits) for one in draw_phrases(self.segmenter, image, phrases)]
                if phrases
                else [next(masks) for _ in answer]
                for answer, phrases in zip(by_hand, in_words, strict=True)
            ])  # fmt: skip
        return drawn

    def _embed(self, paths: Iterable[str]) -> dict[str, Embeddings]:
        known = {path: self.cache.get(path) for path in paths}
        missing = [path for path, embeddings in known.items() if embeddings is None]
        if missing:
            made = self.segmenter.embed([load_image(path) for path in missing])
            self.encoded += len(missing)
            for index, path in enumerate(missing):
                known[path] = encoded = made[index].copy()
                self.cache.put(path, encoded)
        return {path: embeddings for path, embeddings in known.items() if embeddings is not None}

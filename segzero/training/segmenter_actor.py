"""SAM2 beside the trainer: a Ray actor that encodes an image once for all answers about it.

Requests that arrive together are drawn together. Encoded images are kept up to a number of bytes: encoding is
nearly the whole cost (4.5 s against 0.09 s a mask for SAM2 tiny on a CPU), and every prompt comes back in each
epoch and, in validation, again and again.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from segzero.lru import LRUCache
from segzero.masks import RLE, encode
from segzero.segmenter.protocol import Embeddings, MaskPrompt, Segmenter, enlarge

Answers = list[list[MaskPrompt]]  # what each answer wants drawn
Masks = list[list[RLE]]  # one mask a prompt


@dataclass(eq=False)
class _Request:
    path: str
    answers: Answers
    done: "asyncio.Future[Masks]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class SegmenterService:
    """What runs in the actor; plain Python, so that it can be tried without Ray."""

    def __init__(self, segmenter: Segmenter, cache_bytes: int = 2 << 30, most_images: int = 16) -> None:
        self.segmenter, self.most_images = segmenter, most_images
        self.cache = LRUCache[Embeddings](cache_bytes, lambda embeddings: embeddings.nbytes)
        self.encoded = 0  # images so far
        self._queue: asyncio.Queue[_Request] = asyncio.Queue()
        self._running: asyncio.Task | None = None

    async def draw(self, path: str, answers: Answers) -> Masks:
        """A mask for every prompt of every answer about one image."""
        if not any(answers):
            return [[] for _ in answers]
        if self._running is None:
            self._running = asyncio.create_task(self._serve())
        request = _Request(path, answers)
        self._queue.put_nowait(request)
        return await request.done

    async def _serve(self) -> None:
        while True:
            requests = [await self._queue.get()]
            while len(requests) < self.most_images and not self._queue.empty():
                requests.append(self._queue.get_nowait())
            try:
                results = await asyncio.to_thread(self._draw, requests)
            except Exception as error:  # whoever asked must hear of it, or would wait for ever
                for request in requests:
                    request.done.set_exception(error)
            else:
                for request, masks in zip(requests, results, strict=True):
                    request.done.set_result(masks)

    def _draw(self, requests: Sequence[_Request]) -> list[Masks]:
        embeddings = self._embed(dict.fromkeys(request.path for request in requests))
        drawn = []
        for request in requests:
            flat = [prompt for answer in request.answers for prompt in answer]
            image = embeddings[request.path]
            [found] = self.segmenter.decode(image, [flat])
            device = image.features[0].device  # the GPU, where there is one
            masks = iter([encode(enlarge(one.logits[:1], one.size, device)[0]) for one in found])
            drawn.append([[next(masks) for _ in answer] for answer in request.answers])
        return drawn

    def _embed(self, paths: dict[str, None]) -> dict[str, Embeddings]:
        from segzero.images import load_image

        known = {path: self.cache.get(path) for path in paths}
        missing = [path for path, embeddings in known.items() if embeddings is None]
        if missing:
            made = self.segmenter.embed([load_image(path) for path in missing])
            self.encoded += len(missing)
            for index, path in enumerate(missing):
                known[path] = encoded = made[index].copy()
                self.cache.put(path, encoded)
        return {path: embeddings for path, embeddings in known.items() if embeddings is not None}


class SegmenterActor:
    """`ray.remote(SegmenterActor)`; the checkpoint is loaded where it runs."""

    def __init__(self, path: str, backend: str, device: str, cache_bytes: int) -> None:
        from segzero.segmenter import load_segmenter

        self.service = SegmenterService(load_segmenter(path, backend, device=device), cache_bytes)

    async def draw(self, path: str, answers: Answers) -> Masks:
        return await self.service.draw(path, answers)

    async def ping(self) -> dict[str, Any]:
        """That it lives, and what it did."""
        return {"encoded": self.service.encoded, "cache_bytes": self.service.cache.held}

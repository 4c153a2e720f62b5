"""From images and questions to masks: the one walk that inference, evaluation and the demo take.

>>> pipeline = SegZeroPipeline.from_pretrained()                      # doctest: +SKIP
>>> [result] = pipeline(["street.jpg"], ["what keeps the rain off"])
>>> result.think, result.union.shape
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from segzero.answer import Answer, Instance, parse_answer
from segzero.errors import UserError
from segzero.frames import Frame, Size
from segzero.images import load_image
from segzero.masks import Box, Point
from segzero.policy import Policy, Reply, Request, Sampling, load_policy
from segzero.prompts import get_prompt, render_messages
from segzero.result import Found, Segmentation
from segzero.segmenter import Embeddings, Prompt, Segmenter, load_segmenter

GREEDY = Sampling()
ImageLike = str | Path | bytes | Image.Image


@dataclass
class SegZeroPipeline:
    """A policy that answers and a segmenter that draws. `batch` bounds how many images are held at once.

    Images are encoded for the segmenter while the policy writes: also those in which it then finds nothing.
    """

    policy: Policy
    segmenter: Segmenter
    prompt: str = ""  # a name in segzero.prompts; empty: the one the policy was trained with
    sampling: Sampling = GREEDY
    batch: int = 64

    @classmethod
    def from_pretrained(
        cls,
        policy: str | Path | None = None,
        segmenter: str | Path | None = None,
        *,
        policy_backend: str = "auto",
        segmenter_backend: str = "auto",
        frame: str | Frame | None = None,
        prompt: str | None = None,
        device: str = "auto",
        sampling: Sampling | None = None,
    ) -> "SegZeroPipeline":
        """Load both models by folder or hub name; without names, the small ones that come with the package."""
        from segzero import tiny

        drawer = load_segmenter(segmenter or tiny.segmenter_path(), segmenter_backend, device=device)
        speaker = load_policy(policy or tiny.policy_path(), policy_backend, frame=frame, prompt=prompt, device=device)
        return cls(speaker, drawer, sampling=sampling or GREEDY)

    def __call__(self, images: Sequence[ImageLike], questions: Sequence[str]) -> list[Segmentation]:
        """One result for each image and question, in order."""
        return list(self.stream(images, questions))

    def stream(self, images: Sequence[ImageLike], questions: Sequence[str]) -> Iterator[Segmentation]:
        """The same, a batch at a time, for progress bars and for more images than fit into memory."""
        if len(images) != len(questions):
            raise UserError(f"{len(images)} images but {len(questions)} questions; give one question for each image")
        for start in range(0, len(images), self.batch):
            loaded = [load_image(image) for image in images[start : start + self.batch]]
            yield from self._run(loaded, list(questions[start : start + self.batch]))

    def _run(self, images: list[Image.Image], questions: list[str]) -> list[Segmentation]:
        from torch import OutOfMemoryError

        prompt = self.prompt or self.policy.prompt
        frame = self.policy.frame
        begin = time.perf_counter()
        requests = [
            Request(frame.fit(image), render_messages(question, prompt))
            for image, question in zip(images, questions, strict=True)
        ]
        with ThreadPoolExecutor(1) as beside:  # the policy leaves cores idle, or computes elsewhere
            encoding = beside.submit(self.segmenter.embed, images)
            replies = self.policy.generate(requests, self.sampling)
        if isinstance(encoding.exception(), OutOfMemoryError):  # a GPU without room for both at once
            del encoding  # with its traceback, which would keep the failed batch alive
            embeddings = self.segmenter.embed(images)
        else:
            embeddings = encoding.result()
        answered = time.perf_counter()
        answers = [
            parse_answer(reply.text, get_prompt(prompt).format, extent=frame.extent(image.size))
            for reply, image in zip(replies, images, strict=True)
        ]
        found = draw_answers(self.segmenter, embeddings, answers, frame)
        timings = {
            "policy": (answered - begin) / len(images),
            "segmenter": (time.perf_counter() - answered) / len(images),
        }
        rows = zip(images, questions, replies, answers, found, strict=True)
        return [_result(*row, timings) for row in rows]


def draw_answers(
    segmenter: Segmenter, embeddings: Embeddings, answers: Sequence[Answer], frame: Frame
) -> list[tuple[Found, ...]]:
    """Masks for every instance of every answer, one answer for each encoded image.

    Coordinates leave the frame here; what reaches beyond the image is clipped to it.
    """
    places = [
        [in_pixels(instance, frame, size) for instance in answer.instances]
        for answer, size in zip(answers, embeddings.sizes, strict=True)
    ]
    drawn = segmenter.decode(embeddings, [[Prompt(box, points) for box, points in each] for each in places])
    return [
        tuple(
            Found(mask.masks[0], box, points, float(mask.scores[0]))
            for (box, points), mask in zip(where, masks, strict=True)
        )
        for where, masks in zip(places, drawn, strict=True)
    ]


def in_pixels(instance: Instance, frame: Frame, size: Size) -> tuple[Box, tuple[Point, ...]]:
    """An instance's box and points in the image's own pixels, clipped to it."""
    x0, y0, x1, y1 = frame.to_pixels(instance.box, size)
    points = [frame.to_pixels(point, size) for point in instance.points]
    width, height = size
    return (
        (_clip(x0, width), _clip(y0, height), _clip(x1, width), _clip(y1, height)),
        tuple((_clip(x, width - 1), _clip(y, height - 1)) for x, y in points),
    )


def _clip(value: float, limit: float) -> float:
    return min(max(value, 0.0), float(limit))


def _result(
    image: Image.Image,
    question: str,
    reply: Reply,
    answer: Answer,
    found: tuple[Found, ...],
    timings: dict[str, float],
) -> Segmentation:
    details: dict[str, Any] = {"error": answer.error, "warnings": answer.warnings, "timings": timings}
    return Segmentation(image, question, found, think=answer.think, raw_text=reply.text, **details)

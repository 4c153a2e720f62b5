"""From images and questions to masks: the one walk that inference, evaluation and the demo take.

>>> pipeline = SegZeroPipeline.from_pretrained()                      # doctest: +SKIP
>>> [result] = pipeline(["street.jpg"], ["what keeps the rain off"])
>>> result.think, result.union.shape
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from PIL import Image

from segzero.answer import Answer, Instance, parse_answer
from segzero.errors import UserError
from segzero.frames import Frame, Size
from segzero.images import load_image
from segzero.masks import Box, Point
from segzero.policy import Policy, Request, Sampling, load_policy
from segzero.prompts import get_prompt, render_messages
from segzero.result import InstanceMask, Segmentation
from segzero.segmenter import Embeddings, MaskPrompt, Segmenter, load_segmenter

GREEDY = Sampling()
ImageLike = str | Path | bytes | Image.Image


@dataclass(frozen=True)
class PolicyOutput:
    """What the policy wrote about an image, and how it was read; nothing is drawn yet."""

    question: str
    text: str
    answer: Answer
    seconds: float


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
        from segzero import shipped

        drawer = load_segmenter(segmenter or shipped.segmenter_path(), segmenter_backend, device=device)
        speaker = load_policy(
            policy or shipped.policy_path(), policy_backend, frame=frame, prompt=prompt, device=device
        )
        return cls(speaker, drawer, sampling=sampling or GREEDY)

    def __call__(
        self, images: Sequence[ImageLike], questions: Sequence[str], notes: Sequence[str] = ()
    ) -> list[Segmentation]:
        """One result for each image and question, in order; `notes` are what each is told beside its question."""
        return list(self.stream(images, questions, notes))

    def stream(
        self, images: Sequence[ImageLike], questions: Sequence[str], notes: Sequence[str] = ()
    ) -> Iterator[Segmentation]:
        """The same, a batch at a time, for progress bars and for more images than fit into memory."""
        if len(images) != len(questions):
            raise UserError(f"{len(images)} images but {len(questions)} questions; give one question for each image")
        for start in range(0, len(images), self.batch):
            some = slice(start, start + self.batch)
            yield from self._run([load_image(image) for image in images[some]], questions[some], notes[some])

    def ask(
        self, images: Sequence[Image.Image], questions: Sequence[str], notes: Sequence[str] = ()
    ) -> list[PolicyOutput]:
        """What the policy says of each image and question, without masks."""
        begin = time.perf_counter()
        prompt, frame = self.prompt or self.policy.prompt, self.policy.frame
        requests = [
            Request(frame.fit(image), render_messages(question, prompt, told))
            for image, question, told in zip(images, questions, notes or [""] * len(questions), strict=True)
        ]
        replies = self.policy.generate(requests, self.sampling)
        answers = [
            parse_answer(reply.text, get_prompt(prompt).format, extent=frame.extent(image.size))
            for reply, image in zip(replies, images, strict=True)
        ]
        seconds = (time.perf_counter() - begin) / max(len(images), 1)
        rows = zip(questions, replies, answers, strict=True)
        return [PolicyOutput(question, reply.text, answer, seconds) for question, reply, answer in rows]

    def draw(self, images: Sequence[Image.Image], said: Sequence[PolicyOutput]) -> list[Segmentation]:
        """Masks for what was said of each image. One picture that stands there several times is encoded once."""
        begin = time.perf_counter()
        places: dict[int, list[int]] = defaultdict(list)  # where each picture stands that has something to draw
        for place, (image, one) in enumerate(zip(images, said, strict=True)):
            if one.answer.instances:
                places[id(image)].append(place)
        found: list[tuple[InstanceMask, ...]] = [()] * len(images)
        if places:
            pictures = [images[first] for first, *_ in places.values()]
            each = [[said[place].answer.instances for place in of_picture] for of_picture in places.values()]
            together = [Answer(instances=tuple(chain.from_iterable(instances))) for instances in each]
            drawn = draw_answers(self.segmenter, self.segmenter.embed(pictures), together, self.policy.frame)
            for of_picture, masks in zip(places.values(), map(iter, drawn), strict=True):
                for place in of_picture:
                    found[place] = tuple(islice(masks, len(said[place].answer.instances)))
        seconds = (time.perf_counter() - begin) / max(len(images), 1)
        return [_result(*row, seconds) for row in zip(images, said, found, strict=True)]

    def _run(self, images: Sequence[Image.Image], questions: Sequence[str], notes: Sequence[str]) -> list[Segmentation]:
        from torch import OutOfMemoryError

        with ThreadPoolExecutor(1) as beside:  # the policy leaves cores idle, or computes elsewhere
            encoding = beside.submit(self.segmenter.embed, images)
            said = self.ask(images, questions, notes)
            begin = time.perf_counter()
        if isinstance(encoding.exception(), OutOfMemoryError):  # a GPU without room for both at once
            del encoding  # with its traceback, which would keep the failed batch alive
            embeddings = self.segmenter.embed(images)
        else:
            embeddings = encoding.result()
        found = draw_answers(self.segmenter, embeddings, [one.answer for one in said], self.policy.frame)
        seconds = (time.perf_counter() - begin) / len(images)
        return [_result(*row, seconds) for row in zip(images, said, found, strict=True)]


def draw_answers(
    segmenter: Segmenter, embeddings: Embeddings, answers: Sequence[Answer], frame: Frame
) -> list[tuple[InstanceMask, ...]]:
    """Masks for every instance of every answer, one answer for each encoded image.

    Coordinates leave the frame here; what reaches beyond the image is clipped to it.
    """
    places = [
        [in_pixels(instance, frame, size) for instance in answer.instances]
        for answer, size in zip(answers, embeddings.sizes, strict=True)
    ]
    drawn = segmenter.decode(embeddings, [[MaskPrompt(box, points) for box, points in each] for each in places])
    return [
        tuple(
            InstanceMask(mask.masks[0], box, points, float(mask.scores[0]))
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


def _result(image: Image.Image, said: PolicyOutput, found: tuple[InstanceMask, ...], seconds: float) -> Segmentation:
    return Segmentation(
        image,
        said.question,
        found,
        think=said.answer.think,
        raw_text=said.text,
        error=said.answer.error,
        warnings=said.answer.warnings,
        timings={"policy": said.seconds, "segmenter": seconds},
    )

"""Results of a mask model, in the form of those of a policy and a segmenter.

>>> pipeline = MaskPipeline.from_pretrained("runs/prompt_head/best")                       # doctest: +SKIP
>>> [result] = pipeline(["street.jpg"], ["what keeps the rain off"])                       # doctest: +SKIP
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segzero.errors import UserError
from segzero.frames import Frame, relative
from segzero.images import load_image
from segzero.mask_model.protocol import MaskModel, MaskQuestion
from segzero.masks import box_of
from segzero.pipeline import ImageLike, Query
from segzero.result import InstanceMask, Segmentation
from segzero.segmenter import Embeddings, Segmenter

GRES = {  # how a rejected question is scored
    "generative": "as a generative model: a rejected target has IoU 0",
    "published": "as published: a rejected target keeps the IoU of its mask; N-acc and T-acc by the decision",
}


@dataclass
class MaskPipeline:
    """A mask model behind the interface of `SegZeroPipeline`; `batch` bounds how many images are held at once.

    Each answer is one instance, with the mask of all that the question asks for and the box around it. With
    `draw_rejected` an answer of "nothing there" has the mask that would have been drawn, too, and each answer says
    whether it rejects.
    """

    model: MaskModel
    batch: int = 64
    draw_rejected: bool = False
    segmenter: Segmenter | None = None  # for what is drawn by hand
    undivided: ClassVar[bool] = True
    memories: ClassVar[tuple[str, ...]] = ("masks",)

    @classmethod
    def from_pretrained(cls, path: str | Path, device: str = "auto") -> "MaskPipeline":
        """Load a mask model's folder."""
        from segzero.mask_model.load import load_mask_model

        return cls(load_mask_model(path, device))

    @property
    def frame(self) -> Frame:
        """Any frame: a mask model reads and writes no numbers."""
        return relative()

    @property
    def answerer(self) -> MaskModel:
        """The mask model."""
        return self.model

    @property
    def models(self) -> dict[str, Any]:
        """The mask model."""
        return {"mask_model": self.model}

    @property
    def settings(self) -> dict[str, Any]:
        """The kind of the head, what an answer is, if earlier masks matter, how rejections count, a published path."""
        settings = {"head": self.model.kind, "answer": "one mask, without boxes or points", "memory": self.model.memory}
        settings["gres"] = GRES["published" if self.draw_rejected else "generative"]
        return settings | ({"protocol": self.model.protocol} if self.model.protocol else {})

    def fits(self, image: Image.Image) -> None:
        """Refuse an image of a shape that the model can't see."""
        self.model.fits(image)

    def close(self) -> None:
        """Close the model."""
        self.model.close()

    def __call__(self, images: Sequence[ImageLike], questions: Sequence[str]) -> list[Segmentation]:
        """Answer each question about its image with a mask, in order."""
        return list(self.stream(images, questions))

    def stream(self, images: Sequence[ImageLike], questions: Sequence[str]) -> Iterator[Segmentation]:
        """Yield results a batch at a time, for progress bars and for more images than fit into memory."""
        if len(images) != len(questions):
            raise UserError(f"{len(images)} images but {len(questions)} questions; give one question for each image")
        rows = zip(images, questions, strict=True)
        while batch := list(islice(rows, self.batch)):
            yield from self.run([Query(load_image(image), question) for image, question in batch])

    def run(self, queries: Sequence[Query]) -> list[Segmentation]:
        """Answer one batch of queries, each with the mask of all that it asks for as a single instance."""
        begin = time.perf_counter()
        answers = self.model.answer([MaskQuestion(query.image, query.question, query.earlier) for query in queries])
        seconds = (time.perf_counter() - begin) / max(1, len(queries))
        return [
            Segmentation(
                query.image,
                query.question,
                _instances(one.drawn if self.draw_rejected else one.mask, one.score),
                timings={"mask_model": seconds},
                undivided=self.undivided,
                rejected=one.rejected if self.draw_rejected else None,
            )
            for query, one in zip(queries, answers, strict=True)
        ]

    def ask(self, queries: Sequence[Query]) -> list[Segmentation]:
        """Answer queries: masks come at once."""
        return self.run(queries)

    def answer(self, query: Query, embed: Callable[[], Embeddings]) -> Segmentation:
        """Answer a single query; the segmenter's view of the image is not needed."""
        return self.run([query])[0]

    def with_models(self, answerer: MaskModel, segmenter: Segmenter) -> "MaskPipeline":
        """Copy the pipeline with another mask model, and a segmenter to draw by hand."""
        return replace(self, model=answerer, segmenter=segmenter)

    def draw(self, outputs: Sequence[Segmentation]) -> list[Segmentation]:
        """Return what `ask` has drawn already."""
        return list(outputs)


def _instances(mask: NDArray[np.bool_], score: float) -> tuple[InstanceMask, ...]:
    """The mask and the box around it, or nothing."""
    box = box_of(mask)
    return () if box is None else (InstanceMask(mask, box, score=score),)

"""Results of a mask model, in the form of those of a policy and a segmenter.

>>> pipeline = MaskPipeline.from_pretrained("runs/prompt_head/best")                       # doctest: +SKIP
>>> [result] = pipeline(["street.jpg"], ["what keeps the rain off"])                       # doctest: +SKIP
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from segzero.errors import UserError
from segzero.images import load_image
from segzero.mask_model.protocol import AnsweredMask, MaskModel, MaskQuestion
from segzero.masks import box_of
from segzero.pipeline import ImageLike, Query
from segzero.result import InstanceMask, Segmentation


@dataclass
class MaskPipeline:
    """A mask model behind the interface of `SegZeroPipeline`; `batch` bounds how many images are held at once."""

    model: MaskModel
    batch: int = 64

    @classmethod
    def from_pretrained(cls, path: str | Path, device: str = "auto") -> "MaskPipeline":
        """Load a mask model's folder."""
        from segzero.mask_model.load import load_mask_model

        return cls(load_mask_model(path, device))

    def fits(self, image: Image.Image) -> None:
        """Refuse an image of a shape that the model can't see."""
        self.model.fits(image)

    def __call__(self, images: Sequence[ImageLike], questions: Sequence[str]) -> list[Segmentation]:
        """Answer each question about its image with a mask, in order."""
        if len(images) != len(questions):
            raise UserError(f"{len(images)} images but {len(questions)} questions; give one question for each image")
        results: list[Segmentation] = []
        for start in range(0, len(images), self.batch):
            rows = zip(images[start : start + self.batch], questions[start : start + self.batch], strict=True)
            results += self.run([Query(load_image(image), question) for image, question in rows])
        return results

    def run(self, queries: Sequence[Query]) -> list[Segmentation]:
        """Answer one batch of queries, each with the mask of all that it asks for as a single instance."""
        begin = time.perf_counter()
        answers = self.model.answer([MaskQuestion(query.image, query.question) for query in queries])
        seconds = (time.perf_counter() - begin) / max(1, len(queries))
        return [
            Segmentation(query.image, query.question, _instances(one), timings={"mask_model": seconds})
            for query, one in zip(queries, answers, strict=True)
        ]


def _instances(answer: AnsweredMask) -> tuple[InstanceMask, ...]:
    """The mask and the box around it, or nothing."""
    mask = answer.mask
    box = box_of(mask)
    return () if box is None else (InstanceMask(mask, box, score=answer.score),)

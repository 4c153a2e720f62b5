"""The protocol of mask models, which answer a question about an image with a mask at once, without boxes or points."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segzero.masks import Mask
from segzero.segmenter.protocol import Logits, enlarge

PRESENT = 0.5  # probability from which on something is there


@dataclass(frozen=True, eq=False)
class MaskQuestion:
    """A question about an image; `earlier` are the masks [H, W] of earlier rounds to which it refers."""

    image: Image.Image
    question: str
    earlier: tuple[Mask, ...] = ()


@dataclass(frozen=True, eq=False)
class AnsweredMask:
    """Answer of a mask model: one mask for everything that the question asks for."""

    logits: Logits  # [h, w] over the whole image, above 0 inside, at the model's coarse resolution
    score: float  # IoU that the model expects of the mask
    presence: float  # probability that anything matches
    size: tuple[int, int]  # width, height of the image

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Mask [H, W] at the image's size, without a pixel if the model finds nothing."""
        return np.zeros(self.size[::-1], bool) if self.rejected else self.drawn

    @property
    def rejected(self) -> bool:
        """Whether the model finds nothing."""
        return self.presence < PRESENT

    @property
    def drawn(self) -> NDArray[np.bool_]:
        """Mask [H, W] at the image's size as it is drawn, whether or not the model finds anything."""
        whole: NDArray[np.bool_] = enlarge(self.logits[None], self.size)[0]
        return whole


class MaskModel(Protocol):
    """A model that answers questions with masks. `segzero.mask_model.load.load_mask_model` makes one."""

    name: str  # the checkpoint, as it was named
    kind: str  # of its head
    memory: bool  # whether earlier masks of a dialogue change its answers
    protocol: str  # the published path from a question to a mask, where that is followed; else empty

    def answer(self, questions: Sequence[MaskQuestion]) -> list[AnsweredMask]:
        """Answer each question, in order."""
        ...

    def fits(self, image: Image.Image) -> None:
        """Refuse an image of a shape that the model can't see."""
        ...

    def close(self) -> None:
        """Release memory; the model can't be used afterwards."""
        ...

"""What a segmenter is asked and what it gives back. All coordinates are pixels of the original image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from segzero.masks import Mask

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SURE = 10.0  # the logit of a pixel that is inside for certain


@dataclass(frozen=True, eq=False)
class MaskPrompt:
    """One object to draw: a box, points, or both; `mask` may add the logits of an earlier answer to improve on.

    >>> Prompt(box=(10, 20, 60, 80), points=((30, 40), (55, 75)), labels=(1, 0))  # the second point is outside it
    """

    box: tuple[float, float, float, float] | None = None  # x0, y0, x1, y1
    points: Sequence[tuple[float, float]] = ()
    labels: Sequence[int] = ()  # 1 inside, 0 outside, one for each point; none given: all inside
    mask: np.ndarray | None = None  # [h, w], one of `MaskPrediction.logits`


def as_logits(mask: Mask, grid: tuple[int, int]) -> np.ndarray:
    """A mask [H, W] as `Prompt.mask` takes it: [h, w] on the segmenter's grid, 10 inside and -10 outside.

    So Meta's own code makes them of masks; along the edges it is in between.
    """
    height, width = grid
    cover = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    return ((np.asarray(cover) * 2 - 1) * SURE).astype(np.float32)


@dataclass(frozen=True, eq=False)
class MaskPrediction:
    """What was drawn for one prompt: M = 1 mask, the best by its own score, or all M = 3."""

    logits: np.ndarray  # float32 [M, h, w], above 0 inside, as coarse as the model draws
    scores: np.ndarray  # float32 [M], the IoU the model expects of each
    size: tuple[int, int]  # width, height of the image

    @property
    def masks(self) -> np.ndarray:
        """bool [M, H, W] at the image's size; made at each access, so that thousands of answers stay small."""
        return enlarge(self.logits, self.size)


def enlarge(logits: np.ndarray, size: tuple[int, int], device: "torch.device | str" = "cpu") -> np.ndarray:
    """Logits [M, h, w] -> bool masks [M, H, W] of an image of that width and height, worked out on `device`."""
    import torch
    from torch.nn.functional import interpolate

    width, height = size
    coarse = torch.from_numpy(logits)[None].to(device)
    return (interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)[0] > 0).cpu().numpy()


def best_first(drawn: MaskPrediction) -> list[int]:
    """The places of its masks, by the IoU that the model expects; one without a number comes last."""
    return np.argsort(-drawn.scores, kind="stable").tolist()


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Encoded images: costly to make, cheap to ask again. `embeddings[3]` and `embeddings[:2]` are Embeddings too."""

    features: "tuple[Tensor, ...]"  # each [N, C, h, w], the finest first
    sizes: tuple[tuple[int, int], ...]  # width, height of each image

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int | slice) -> "Embeddings":
        if isinstance(index, int):
            index = range(len(self))[index]  # an IndexError ends iteration; negative numbers count from the end
            index = slice(index, index + 1)
        return Embeddings(tuple(level[index] for level in self.features), self.sizes[index])

    @property
    def nbytes(self) -> int:
        """Memory held by the features."""
        return sum(level.numel() * level.element_size() for level in self.features)

    def copy(self) -> "Embeddings":
        """The same in memory of its own: a slice keeps the features of its whole batch alive."""
        return Embeddings(tuple(level.clone() for level in self.features), self.sizes)

    def cpu(self) -> "Embeddings":
        """The same in main memory; `decode` takes either."""
        return Embeddings(tuple(level.cpu() for level in self.features), self.sizes)


def join(several: Sequence[Embeddings]) -> Embeddings:
    """All their images, in order; a single one is given back as it is, in the same memory."""
    import torch

    if len(several) == 1:
        return several[0]
    levels = zip(*(each.features for each in several), strict=True)
    return Embeddings(tuple(map(torch.cat, levels)), tuple(size for each in several for size in each.sizes))


class Segmenter(Protocol):
    """Who draws: transformers' SAM2 or Meta's."""

    name: str

    def embed(self, images: Sequence[Image.Image]) -> Embeddings:
        """Encode images, once each."""
        ...

    def decode(
        self, embeddings: Embeddings, prompts: Sequence[Sequence[MaskPrompt]], all_masks: bool = False
    ) -> list[list[MaskPrediction]]:
        """Draw any number of objects in each image, as often as needed; no prompts for an image give []."""
        ...

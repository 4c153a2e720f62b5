"""The protocol of every segmenter, its prompts and its predictions. Coordinates are pixels of the original image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segzero.masks import Mask

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Logits = NDArray[np.float32]
CERTAIN = 10.0  # logit of a pixel that is certainly inside


@dataclass(frozen=True, eq=False)
class MaskPrompt:
    """Prompt for one object: a box, points, or both; `mask` may add the logits of an earlier prediction to refine.

    >>> prompt = MaskPrompt(box=(10, 20, 60, 80), points=((30, 40), (55, 75)), labels=(1, 0))  # the second is outside
    """

    box: tuple[float, float, float, float] | None = None  # x0, y0, x1, y1
    points: Sequence[tuple[float, float]] = ()
    labels: Sequence[int] = ()  # 1 inside, 0 outside, one for each point; without labels all are inside
    mask: Logits | None = None  # [h, w], one of `MaskPrediction.logits`


def as_logits(mask: Mask, grid: tuple[int, int]) -> Logits:
    """Turn a mask [H, W] into a `MaskPrompt.mask`: [h, w] on the segmenter's grid, 10 inside and -10 outside.

    Meta's own code turns masks into logits like this; values along the edges lie in between.
    """
    height, width = grid
    cover = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    return ((np.asarray(cover) * 2 - 1) * CERTAIN).astype(np.float32)


@dataclass(frozen=True, eq=False)
class MaskPrediction:
    """Masks predicted for one prompt: M = 1, the best by its own score, or all M = 3."""

    logits: Logits  # [M, h, w], above 0 inside, at the model's coarse resolution
    scores: Logits  # [M], the IoU that the model expects of each mask
    size: tuple[int, int]  # width, height of the image

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Masks [M, H, W] at the image's size; computed at each access, so that thousands of predictions stay small."""
        return enlarge(self.logits, self.size)


def enlarge(logits: Logits, size: tuple[int, int], device: "torch.device | str" = "cpu") -> NDArray[np.bool_]:
    """Turn logits [M, h, w] into masks [M, H, W] of an image of that (width, height), computed on `device`."""
    import torch
    from torch.nn.functional import interpolate

    width, height = size
    coarse = torch.from_numpy(logits)[None].to(device)
    fine = interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)[0]
    masks: NDArray[np.bool_] = (fine > 0).cpu().numpy()
    return masks


def best_first(prediction: MaskPrediction) -> list[int]:
    """Indices of the masks in descending order of expected IoU; a mask whose score is nan comes last."""
    return [int(place) for place in np.argsort(-prediction.scores, kind="stable")]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Encoded images: expensive to compute, cheap to use again. `embeddings[3]` and `embeddings[:2]` work too."""

    features: "tuple[Tensor, ...]"  # each [N, C, h, w], the finest level first
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
        """Bytes of the features."""
        return sum(level.numel() * level.element_size() for level in self.features)

    def copy(self) -> "Embeddings":
        """Copy into memory of its own: a slice keeps the features of its whole batch alive."""
        return Embeddings(tuple(level.clone() for level in self.features), self.sizes)

    def cpu(self) -> "Embeddings":
        """Copy into main memory; `decode` accepts features on any device."""
        return Embeddings(tuple(level.cpu() for level in self.features), self.sizes)


def join(several: Sequence[Embeddings]) -> Embeddings:
    """Join embeddings of images into one, in order; a single one is returned as it is, in the same memory."""
    import torch

    if len(several) == 1:
        return several[0]
    levels = zip(*(each.features for each in several), strict=True)
    return Embeddings(tuple(map(torch.cat, levels)), tuple(size for each in several for size in each.sizes))


class Segmenter(Protocol):
    """A model that predicts masks: transformers' SAM2 or SAM3, or Meta's SAM2."""

    name: str
    reads_text: bool  # phrases can be asked for, too: it is a `segzero.segmenter.words.TextSegmenter`

    def embed(self, images: Sequence[Image.Image]) -> Embeddings:
        """Encode images, once each."""
        ...

    def decode(
        self, embeddings: Embeddings, prompts: Sequence[Sequence[MaskPrompt]], all_masks: bool = False
    ) -> list[list[MaskPrediction]]:
        """Predict a mask for each prompt of each image, or all three with `all_masks`; [] for an image without."""
        ...

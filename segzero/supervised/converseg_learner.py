"""The loss of ConverSeg: cross-entropy and a quarter of dice, for empty masks too, of one mask a question."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, pad

from segzero.mask_model.converseg import ConverSegModel
from segzero.supervised.losses import cross_entropy, dice, mask_iou
from segzero.supervised.mask_learner import MaskLearner, MaskRow, Weights, resized

DICE = 0.25


@dataclass(frozen=True)
class Erosion:
    """Erosion of true masks by a square of `width` pixels, some `times`, at a size whose long side is `side`."""

    width: int
    times: int
    side: int

    def __call__(self, truth: Tensor) -> Tensor:
        """Erode a mask, float [H, W]; pixels beyond the image count as inside."""
        if not self.width or not self.times:
            return truth
        scale = self.side / max(truth.shape)
        size = [max(1, round(length * scale)) for length in truth.shape]
        outside = 1 - interpolate(truth[None, None], size, mode="nearest")
        before = self.width // 2
        margins = [before, self.width - 1 - before] * 2
        for _ in range(self.times):
            outside = max_pool2d(pad(outside, margins), self.width, stride=1)
        return 1 - outside[0, 0]


class ConverSegLearner(MaskLearner):
    """A ConverSeg-Net that learns; it keeps the terms of the loss since they were last taken."""

    def __init__(self, model: ConverSegModel, most_rows: int, cache_bytes: int, erosion: Erosion) -> None:
        super().__init__(model, most_rows, cache_bytes, Weights(1.0, DICE, 0.0, 0.0))
        self.erosion = erosion
        self.terms: list[Tensor] = []  # each [B, 3]: cross-entropy, weighted dice, IoU

    def forward(self, rows: Sequence[MaskRow]) -> Tensor:
        """Loss of questions, summed."""
        logits, truth = self.compare(rows)
        terms = torch.stack([cross_entropy(logits, truth), DICE * dice(logits, truth), mask_iou(logits, truth)], dim=1)
        self.terms.append(terms.detach())
        return terms[:, :2].sum()

    def compare(self, rows: Sequence[MaskRow]) -> tuple[Tensor, Tensor]:
        """Logits and true masks, eroded, [B, h, w] at the decoder's resolution."""
        decoded = self.model([row.image for row in rows], [row.question for row in rows])
        logits = torch.stack(list(decoded.logits))
        truth = [resized(self.erosion(row.truth), logits.shape[-2:]) for row in rows]
        return logits, torch.stack(truth).to(logits.device)

    def take_terms(self) -> dict[str, float]:
        """Means of the terms since the last call."""
        means = torch.cat(self.terms).mean(dim=0).tolist()
        self.terms.clear()
        return dict(zip(("bce", "dice", "iou"), means, strict=True))

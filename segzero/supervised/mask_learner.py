"""A prompt head that learns masks: loss of a batch, with the frozen encoders' features kept for later epochs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from segzero.images import image_key
from segzero.lru import LRUCache
from segzero.mask_model.prompt_model import PromptModel
from segzero.mask_model.reader import SeenImage
from segzero.masks import decode
from segzero.sample import Sample
from segzero.segmenter.protocol import Embeddings
from segzero.supervised.losses import cross_entropy, dice, mask_iou


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of the terms of the loss; `presence` and `score` teach "nothing there" and the expected IoU."""

    mask: float
    dice: float
    presence: float
    score: float


@dataclass(frozen=True, eq=False)
class MaskRow:
    """A question about an encoded image, with its true mask."""

    seen: SeenImage
    embedded: Embeddings
    question: str
    truth: Tensor  # float [H, W], 0 or 1


class MaskLearner(nn.Module):
    """A mask model whose forward pass returns the loss of questions, summed over them."""

    def __init__(self, model: PromptModel, most_rows: int, cache_bytes: int, weights: Weights) -> None:
        super().__init__()
        self.model, self.most_rows, self.weights = model, most_rows, weights
        self.encoded: LRUCache = LRUCache(cache_bytes, lambda pair: pair[0].nbytes + pair[1].nbytes)

    def passes(self, samples: Sequence[Sample], count: int | None = None) -> list[list[MaskRow]]:
        """Encode samples and divide them into passes of at most `most_rows`, or a given number of passes."""
        rows = self.encode(samples)
        count = count or -(-len(rows) // self.most_rows)
        return [rows[place::count] for place in range(count)]

    def encode(self, samples: Sequence[Sample]) -> list[MaskRow]:
        """Encode the images of samples, each once, and decode the true masks."""
        keys = [image_key(sample.image) for sample in samples]
        found: dict[str, tuple[SeenImage, Embeddings]] = {}
        missing: dict[str, Sample] = {}
        for key, sample in zip(keys, samples, strict=True):
            if (kept := self.encoded.get(key)) is not None:
                found[key] = kept
            else:
                missing[key] = sample
        if missing:
            images = [sample.open() for sample in missing.values()]
            embeddings = self.model.segmenter.embed(images)
            for place, (key, seen) in enumerate(zip(missing, self.model.reader.see(images), strict=True)):
                found[key] = seen, embeddings[place].copy()
                self.encoded.put(key, found[key])
        rows = zip(keys, samples, strict=True)
        return [MaskRow(*found[key], question=sample.question, truth=true_mask(sample)) for key, sample in rows]

    def weight(self, rows: Sequence[MaskRow]) -> int:
        """Number of questions."""
        return len(rows)

    def forward(self, rows: Sequence[MaskRow]) -> Tensor:
        """Loss of questions; where nothing is there, the mask's own terms are left out."""
        decoded = self.model([r.seen for r in rows], [r.embedded for r in rows], [r.question for r in rows])
        size = decoded.logits.shape[-2:]
        truth = torch.stack([interpolate(r.truth[None, None], size, mode="area")[0, 0] > 0.5 for r in rows])
        truth = truth.float().to(decoded.logits.device)
        there = torch.tensor([float(r.truth.any()) for r in rows], device=truth.device)
        weights = self.weights
        masks = weights.mask * cross_entropy(decoded.logits, truth) + weights.dice * dice(decoded.logits, truth)
        scores = weights.score * (decoded.scores - mask_iou(decoded.logits, truth)) ** 2
        presence = binary_cross_entropy_with_logits(decoded.presence, there, reduction="none")
        return ((masks + scores) * there + weights.presence * presence).sum()


def true_mask(sample: Sample) -> Tensor:
    """Union of a sample's true masks, float [H, W]."""
    rle = sample.mask()
    assert rle is not None, "samples without masks are left out before"
    return torch.from_numpy(decode(rle, sample.size).astype(np.float32))

"""A mask model that learns from samples: loss of a batch, with the frozen towers' features kept for later epochs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from segzero.dialogue.memory import MASKS
from segzero.dialogue.prompting import build_prompt, registry_from_turns
from segzero.frames import relative
from segzero.images import image_key
from segzero.lru import LRUCache
from segzero.mask_model.network import Decoded, EncodedImage, MaskNetwork
from segzero.masks import Mask, decode
from segzero.sample import Sample
from segzero.supervised.loop import Learner
from segzero.supervised.losses import cross_entropy, dice, focal, mask_iou


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of the terms of the loss, of which a head may leave some out.

    `presence` and `score` teach "nothing there" and the expected IoU, `answer` the words of models that write.
    """

    mask: float = 0.0  # cross-entropy of pixels
    dice: float = 0.0
    presence: float = 0.0
    score: float = 0.0
    focal: float = 0.0
    answer: float = 0.0


@dataclass(frozen=True, eq=False)
class MaskRow:
    """A question about an encoded image, with its true mask."""

    image: EncodedImage
    question: str
    truth: Tensor  # float [H, W], 0 or 1
    earlier: tuple[Mask, ...] = ()  # true masks of earlier rounds to which it refers


class MaskLearner(Learner):
    """A mask model whose forward pass returns the loss of questions, summed over them."""

    def __init__(self, model: MaskNetwork, most_rows: int, cache_bytes: int, weights: Weights) -> None:
        super().__init__()
        self.model, self.most_rows, self.weights = model, most_rows, weights
        self.encoded: LRUCache = LRUCache(cache_bytes, lambda image: image.nbytes)

    def passes(self, samples: Sequence[Sample], count: int | None = None) -> list[list[MaskRow]]:
        """Encode samples and divide them into passes of at most `most_rows`, or a given number of passes.

        Neighbours stay together: they may be about one image.
        """
        rows = self.encode(samples)
        count = count or -(-len(rows) // self.most_rows)
        bounds = [len(rows) * place // count for place in range(count + 1)]
        return [rows[begin:end] for begin, end in pairwise(bounds)]

    def encode(self, samples: Sequence[Sample]) -> list[MaskRow]:
        """Encode the images of samples, each once, and decode the true masks."""
        keys = [image_key(sample.image) for sample in samples]
        found: dict[str, EncodedImage] = {}
        missing: dict[str, Sample] = {}
        for key, sample in zip(keys, samples, strict=True):
            if (kept := self.encoded.get(key)) is not None:
                found[key] = kept
            else:
                missing[key] = sample
        if missing:
            images = self.model.see([sample.open() for sample in missing.values()])
            for key, image in zip(missing, images, strict=True):
                found[key] = image
                self.encoded.put(key, image)
        told = [earlier_masks(sample) if self.model.memory else () for sample in samples]
        each = zip(keys, samples, told, strict=True)
        return [MaskRow(found[key], sample.question, true_mask(sample), masks) for key, sample, masks in each]

    def weight(self, rows: Sequence[MaskRow]) -> int:
        """Number of questions."""
        return len(rows)

    def forward(self, rows: Sequence[MaskRow]) -> Tensor:
        """Loss of questions; where nothing is there, the mask's own terms are left out."""
        known = [bool(row.truth.any()) for row in rows]
        told = {"earlier": [row.earlier for row in rows]} if self.model.memory else {}
        decoded = self.model.learn([row.image for row in rows], [row.question for row in rows], known, **told)
        there = torch.tensor(known, dtype=decoded.presence.dtype, device=decoded.presence.device)
        presence = binary_cross_entropy_with_logits(decoded.presence, there, reduction="none")
        answers = self.weights.presence * presence.sum()
        if decoded.answer_loss is not None:
            answers = answers + self.weights.answer * decoded.answer_loss.sum()
        by_size: dict[torch.Size, list[int]] = {}
        for place, logits in enumerate(decoded.logits):
            if known[place]:
                by_size.setdefault(logits.shape, []).append(place)
            else:
                answers = answers + 0.0 * logits.sum()  # so that each process has gradients of the same weights
        masks = [self._loss(decoded, rows, places) for places in by_size.values()]
        return sum(masks, answers)

    def _loss(self, decoded: Decoded, rows: Sequence[MaskRow], places: Sequence[int]) -> Tensor:
        """Loss of masks of one size against what is there."""
        logits = torch.stack([decoded.logits[place] for place in places])
        truth = torch.stack([resized(rows[place].truth, logits.shape[-2:]) for place in places]).to(logits.device)
        weights = self.weights
        masks = weights.dice * dice(logits, truth)
        if weights.mask:
            masks = masks + weights.mask * cross_entropy(logits, truth)
        if weights.focal:
            masks = masks + weights.focal * focal(logits, truth)
        if weights.score:
            masks = masks + weights.score * (decoded.scores[list(places)] - mask_iou(logits, truth)) ** 2
        return masks.sum()


def earlier_masks(sample: Sample) -> tuple[Mask, ...]:
    """True masks [H, W] of earlier rounds to which a sample's question refers, one for each reference."""
    registry = registry_from_turns(sample.turns, sample.size)
    return build_prompt(sample.question, registry, relative(), memory=MASKS).earlier


def true_mask(sample: Sample) -> Tensor:
    """Union of a sample's true masks, float [H, W]."""
    rle = sample.mask()
    assert rle is not None, "samples without masks are left out before"
    return torch.from_numpy(decode(rle, sample.size).astype(np.float32))


def resized(truth: Tensor, size: torch.Size) -> Tensor:
    """A true mask at a decoder's resolution, 0 or 1: pixels of which more than half is inside."""
    return (interpolate(truth[None, None], tuple(size), mode="area")[0, 0] > 0.5).float()

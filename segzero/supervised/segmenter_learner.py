"""SAM2's mask decoder as a learner: clicks and boxes drawn from true masks, then clicks where the mask is wrong.

As in SAM, of the three masks of a prompt the best one learns the true mask, so that an ambiguous click may mean either
the whole or a part; all three learn what IoU to expect. Where this departs from SAM: the image encoder and the prompt
encoder are frozen, and corrections are few, as `corrections` says.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from segzero.images import image_key
from segzero.lru import LRUCache
from segzero.masks import Mask, box_of, decode
from segzero.sample import Sample
from segzero.segmenter.batching import BOX_LABELS, MASK_LIMIT
from segzero.segmenter.protocol import Embeddings
from segzero.segmenter.transformers import TransformersSegmenter
from segzero.supervised.loop import Learner
from segzero.supervised.losses import dice, focal, mask_iou

FINEST = 256  # pixels: smaller grids of logits are enlarged to it, as in use, so that edges finer than them are learnt
BOX_NOISE = 0.1  # of a box's sides, as in SAM


@dataclass(frozen=True)
class PromptSettings:
    """Settings of the prompts of objects, and weights of the terms of the loss."""

    objects: int = 4  # of an image in an update
    box_share: float = 0.5
    corrections: int = 2
    focal: float = 20.0
    dice: float = 1.0
    score: float = 1.0


@dataclass(frozen=True, eq=False)
class ObjectRow:
    """A true mask, its image's features, and its first prompt in shares of the image's sides."""

    image: Embeddings
    truth: Tensor  # float [side, side], 0 or 1
    points: Tensor  # [K, 2] x, y; a box is two points
    labels: Tensor  # [K]
    seed: int  # of the corrections


class SegmenterLearner(Learner):
    """A segmenter whose forward pass returns the loss of objects, summed over them; its mask decoder is trained."""

    def __init__(
        self,
        segmenter: TransformersSegmenter,
        settings: PromptSettings = PromptSettings(),
        most_rows: int = 16,
        cache_bytes: int = 1 << 30,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.segmenter, self.settings, self.most_rows, self.seed = segmenter, settings, most_rows, seed
        self.model = segmenter.model
        self.model.requires_grad_(False)
        self.model.mask_decoder.requires_grad_(True)
        if (unused := getattr(self.model.mask_decoder, "pred_obj_score_head", None)) is not None:
            unused.requires_grad_(False)  # whether anything is there at all: a question of videos
        self.encoded = LRUCache[Embeddings](cache_bytes, lambda embeddings: embeddings.nbytes)

    def passes(self, samples: Sequence[Sample], count: int | None = None) -> list[list[ObjectRow]]:
        """Encode samples, draw a prompt for some objects of each, and divide these into passes."""
        rows = [
            row
            for sample, image in zip(samples, self.encode(samples), strict=True)
            for row in self._rows(sample, image)
        ]
        rows.sort(key=lambda row: len(row.labels))  # prompts with as many points share a decoding
        count = count or -(-len(rows) // self.most_rows)
        bounds = [len(rows) * place // count for place in range(count + 1)]
        return [rows[begin:end] for begin, end in pairwise(bounds)]

    def encode(self, samples: Sequence[Sample]) -> list[Embeddings]:
        """Encode the images of samples, each once."""
        keys = [image_key(sample.image) for sample in samples]
        found: dict[str, Embeddings] = {}
        for key, sample in zip(keys, samples, strict=True):
            if key not in found and (kept := self.encoded.get(key)) is None:
                kept = self.segmenter.embed([sample.open()]).copy()  # a copy takes part in learning
                self.encoded.put(key, kept)
            if key not in found:
                assert kept is not None
                found[key] = kept
        return [found[key] for key in keys]

    def weight(self, rows: Sequence[ObjectRow]) -> int:
        """Number of objects."""
        return len(rows)

    def forward(self, rows: Sequence[ObjectRow]) -> Tensor:
        """Loss of first prompts and of corrections, the mean over these, summed over objects."""
        alike: dict[int, list[ObjectRow]] = {}
        for row in rows:
            alike.setdefault(len(row.labels), []).append(row)
        losses = [self._loss(each) for each in alike.values()]
        return torch.stack(losses).sum()

    def _loss(self, rows: Sequence[ObjectRow]) -> Tensor:
        """Loss of objects whose prompts have as many points."""
        device = next(self.model.parameters()).device
        levels = zip(*(row.image.features for row in rows), strict=True)
        features = [torch.cat(level).to(device) for level in levels]
        points, labels, truth = (
            torch.stack([getattr(row, name) for row in rows]).to(device) for name in ("points", "labels", "truth")
        )
        chance = torch.Generator().manual_seed(rows[0].seed)
        earlier, total = None, torch.zeros((), device=device)
        for turn in range(self.settings.corrections + 1):
            logits, scores = self._decode(features, points, labels, earlier)
            fine = interpolate(logits, truth.shape[-2:], mode="bilinear", align_corners=False)  # [B, 3, side, side]
            total = total + self._loss_of_masks(fine, scores, truth)
            if turn < self.settings.corrections:
                best = scores.argmax(1)
                each = torch.arange(len(rows), device=device)
                earlier = logits[each, best].detach().clamp(-MASK_LIMIT, MASK_LIMIT)
                point, label = correcting_click(fine[each, best].detach() > 0, truth > 0.5, chance)
                points, labels = torch.cat([points, point[:, None]], 1), torch.cat([labels, label[:, None]], 1)
        return total / (self.settings.corrections + 1)

    def _decode(
        self, features: list[Tensor], points: Tensor, labels: Tensor, earlier: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Predict three masks of each prompt: logits [B, 3, h, w], and their IoU [B, 3]."""
        output = self.model(
            image_embeddings=features,
            input_points=points[:, None] * self.model.prompt_encoder.input_image_size,
            input_labels=labels[:, None],
            input_masks=None if earlier is None else earlier[:, None],
            multimask_output=True,
        )
        return output.pred_masks[:, 0].float(), output.iou_scores[:, 0].float()

    def _loss_of_masks(self, logits: Tensor, scores: Tensor, truth: Tensor) -> Tensor:
        """Loss of three masks each [B, 3, side, side] and of their predicted IoU, summed over B."""
        settings, (count, three) = self.settings, logits.shape[:2]
        flat, wanted = logits.flatten(0, 1), truth[:, None].expand_as(logits).flatten(0, 1)
        each = settings.focal * focal(flat, wanted) + settings.dice * dice(flat, wanted)
        true_iou = mask_iou(flat, wanted).view(count, three)
        return each.view(count, three).min(1).values.sum() + settings.score * ((scores - true_iou) ** 2).mean(1).sum()

    def _rows(self, sample: Sample, image: Embeddings) -> list[ObjectRow]:
        """Draw some objects of a sample, and a prompt for each; step and sample alone decide which."""
        chance = np.random.default_rng([self.seed, self.step, zlib.crc32(sample.id.encode("utf-8", "replace"))])
        count = min(self.settings.objects, len(sample.objects))
        side = max(FINEST, image.features[0].shape[-1])
        rows = []
        for place in chance.choice(len(sample.objects), count, replace=False):
            rle = sample.objects[place].rle
            assert rle is not None, "objects without masks are left out before"
            mask = decode(rle, sample.size)
            points, labels = draw_prompt(mask, chance, self.settings.box_share)
            truth = torch.from_numpy(mask.astype(np.float32))[None, None]
            truth = (interpolate(truth, (side, side), mode="area")[0, 0] >= 0.5).float()
            shares = torch.tensor(points / np.array(sample.size), dtype=torch.float32)
            rows.append(ObjectRow(image, truth, shares, torch.tensor(labels), int(chance.integers(2**31))))
        return rows


def draw_prompt(mask: Mask, chance: np.random.Generator, box_share: float) -> tuple[np.ndarray, list[int]]:
    """Draw a box around a mask, not quite exact, or a click on one of its pixels: points in pixels, and labels."""
    height, width = mask.shape
    if chance.random() < box_share:
        box = box_of(mask)
        assert box is not None, "empty masks are left out before"
        corners = np.array(box).reshape(2, 2)
        noise = chance.standard_normal((2, 2)) * BOX_NOISE * chance.random() * (corners[1] - corners[0])
        return np.clip(corners + noise, 0, (width, height)), list(BOX_LABELS)
    row, column = divmod(int(chance.choice(np.flatnonzero(mask))), width)
    return np.array([[column + 0.5, row + 0.5]]), [1]


def correcting_click(predicted: Tensor, truth: Tensor, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a pixel where each mask [B, h, w] is wrong: x, y in shares of the sides [B, 2], and labels [B].

    Where a mask is right, the click is one of its own pixels.
    """
    wrong = (predicted ^ truth).flatten(1)
    weights = torch.where(wrong.any(1, keepdim=True), wrong, truth.flatten(1)).float()
    weights = torch.where(weights.any(1, keepdim=True), weights, 1.0)  # an object finer than the grid
    index = torch.multinomial(weights.cpu(), 1, generator=chance).to(truth.device)  # [B, 1]
    height, width = truth.shape[-2:]
    x, y = (index % width + 0.5) / width, (index // width + 0.5) / height
    return torch.cat([x, y], 1), truth.flatten(1).gather(1, index)[:, 0].long()


def without_empty_masks(sample: Sample) -> Sample:
    """A sample with the objects that have a mask with pixels alone."""
    kept = tuple(each for each in sample.objects if each.rle is not None and decode(each.rle, sample.size).any())
    return replace(sample, objects=kept)

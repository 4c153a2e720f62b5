"""Losses of mask logits against true masks."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Dice loss of each mask: logits and truth (0 or 1) [B, h, w] -> [B], with 1 added so that empty masks count."""
    inside = logits.sigmoid().flatten(1)
    truth = truth.flatten(1)
    return 1 - (2 * (inside * truth).sum(1) + 1) / (inside.sum(1) + truth.sum(1) + 1)


def focal(logits: Tensor, truth: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of each mask, [B]: pixels that are already right count less."""
    entropy = binary_cross_entropy_with_logits(logits, truth, reduction="none")
    wrong = torch.where(truth > 0.5, 1 - logits.sigmoid(), logits.sigmoid())
    weight = torch.where(truth > 0.5, alpha, 1 - alpha)
    return (weight * wrong**gamma * entropy).flatten(1).mean(1)


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy of each mask, [B]."""
    return binary_cross_entropy_with_logits(logits, truth, reduction="none").flatten(1).mean(1)


def mask_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """IoU of each predicted mask, [B], without gradients; two empty masks have 1."""
    inside, true = logits.detach() > 0, truth > 0.5
    either = (inside | true).flatten(1).sum(1)
    both = (inside & true).flatten(1).sum(1)
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)

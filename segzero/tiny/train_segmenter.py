"""Training of the tiny SAM2 on synthetic scenes, in about half an hour on one core.

Each step embeds a few scenes and then prompts the model twice, as an interactive user would: the second prompt is
either a new one, or the first one again with the predicted mask and a point where that mask is wrong. The schedule
counts steps, not time, so that the seed decides the result.

    train_segmenter(Path("sam2"), seed=0)
    evaluate_segmenter(Path("sam2"), count=500)["box and point"]
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Sam2Model, Sam2Processor

from segzero.tiny.scenes import Scene, make_scene
from segzero.tiny.segmenter import build
from segzero.tiny.segmenter_prompts import INSIDE, OUTSIDE, PromptBatch, draw_batch, draw_kind

STEPS = 3600
SCENES = 8  # scenes per step
PROMPTS = 4  # prompts per scene, twice per step
LEARNING_RATE = 6e-4


def train_segmenter(out: Path, seed: int = 0, steps: int = STEPS) -> None:
    """Train from scratch and save model and processor to `out`."""
    model, processor = build(seed)
    model.train()
    rng = np.random.default_rng(seed)
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
    )
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _schedule(step, steps)
        loss, figures = _losses(model, processor, rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            ious = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
            print(f"step {step + 1}/{steps}  loss {loss.item():.3f}  {ious}", flush=True)
    model.eval().save_pretrained(out)
    processor.save_pretrained(out)


def embed(model: Sam2Model, processor: Sam2Processor, scenes: list[Scene]) -> list[Tensor]:
    """Compute the features of scenes with gradients, which the model's own `get_image_embeddings` lacks."""
    pixels = processor.image_processor([scene.image for scene in scenes], return_tensors="pt")["pixel_values"]
    maps = model.get_image_features(pixels, return_dict=True).fpn_hidden_states  # each [h * w, B, C]
    maps[-1] = maps[-1] + model.no_memory_embedding
    return [
        features.permute(1, 2, 0).unflatten(2, size)  # [B, C, h, w]
        for features, size in zip(maps, model.backbone_feature_sizes, strict=True)
    ]


def predict(
    model: Sam2Model,
    features: list[Tensor],
    batch: PromptBatch,
    side: int,
    all_masks: bool,
    earlier: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Predict mask logits [B, N, M, h, w] and their IoU [B, N, M]; M is 3 with `all_masks`, otherwise 1.

    `side` is the size of the scenes in pixels, `earlier` the logits [B, N, h, w] of earlier masks.
    """
    count = batch.points.shape[1]
    points = batch.points * (model.prompt_encoder.input_image_size / side)
    # One row per prompt, because the model takes only one earlier mask per row.
    output = model(
        image_embeddings=[f.repeat_interleave(count, dim=0) for f in features],
        input_points=points.flatten(0, 1)[:, None],
        input_labels=batch.labels.flatten(0, 1)[:, None],
        input_masks=None if earlier is None else earlier.flatten(0, 1)[:, None],
        multimask_output=all_masks,
    )
    shape = batch.labels.shape[:2]
    return output.pred_masks[:, 0].unflatten(0, shape), output.iou_scores[:, 0].unflatten(0, shape)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boolean masks [..., h, w]."""
    return (a & b).sum((-1, -2)) / (a | b).sum((-1, -2)).clamp(min=1)


def _schedule(step: int, steps: int) -> float:
    """Fraction of the learning rate: 100 steps of warm-up, then half a cosine down to 2 %."""
    return min(1.0, (step + 1) / 100) * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def _losses(model: Sam2Model, processor: Sam2Processor, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
    """Loss of one step, and the IoU by kind of prompt."""
    scenes = [make_scene(rng) for _ in range(SCENES)]
    features = embed(model, processor, scenes)
    first = draw_kind(rng)
    batch = draw_batch(rng, scenes, first, PROMPTS)
    all_masks = bool(rng.random() < 0.6)
    logits, scores = predict(model, features, batch, scenes[0].size, all_masks)
    loss, mean_iou = _loss(logits, scores, batch)
    figures = {f"{first}{' x3' if all_masks else ''}": mean_iou}

    if rng.random() < 0.5:
        best = scores.argmax(-1)[..., None, None, None].expand(-1, -1, 1, *logits.shape[-2:])
        earlier = logits.gather(2, best)[:, :, 0].detach()  # [B, N, h, w]
        batch = _corrected(batch, earlier, torch.Generator().manual_seed(int(rng.integers(2**31))))
        second = "mask and point"
    else:
        earlier = None
        second = draw_kind(rng)
        batch = draw_batch(rng, scenes, second, PROMPTS)
    all_masks = bool(rng.random() < 0.6)
    more, mean_iou = _loss(*predict(model, features, batch, scenes[0].size, all_masks, earlier), batch)
    return loss + more, figures | {f"{second}{' x3' if all_masks else ''}": mean_iou}


def _corrected(batch: PromptBatch, earlier: Tensor, chance: torch.Generator) -> PromptBatch:
    """Add a point where the earlier mask is wrong to each prompt; all three masks then learn the one that is meant."""
    meant = batch.meant > 0.5
    predicted = F.interpolate(earlier, meant.shape[-2:], mode="bilinear", align_corners=False) > 0
    wrong = (predicted ^ meant).flatten(2)  # [B, N, h * w]
    wrong = torch.where(wrong.any(-1, keepdim=True), wrong, meant.flatten(2)).float()
    index = torch.multinomial(wrong.flatten(0, 1), 1, generator=chance).view(*wrong.shape[:2], 1)
    label = torch.where(meant.flatten(2).gather(2, index), INSIDE, OUTSIDE)
    width = meant.shape[-1]
    point = torch.stack([index % width, index // width], dim=-1) * 2.0 + 0.5  # masks are at half resolution
    return PromptBatch(
        torch.cat([batch.points, point], dim=2),
        torch.cat([batch.labels, label], dim=2),
        batch.meant,
        batch.meant[:, :, None].expand_as(batch.roles),
    )


def _loss(logits: Tensor, scores: Tensor, batch: PromptBatch) -> tuple[Tensor, float]:
    """Loss of mask logits [B, N, M, h, w] and of their predicted IoU, and the mean IoU with the targets.

    The logits are enlarged first, as they are in use, so that the model learns edges finer than its grid.
    """
    count = logits.shape[2]
    roles = batch.roles if count == 3 else batch.meant[:, :, None]
    meant = batch.meant[:, :, None].expand_as(roles)
    logits = F.interpolate(logits.flatten(0, 1), roles.shape[-2:], mode="bilinear", align_corners=False)
    logits = logits.unflatten(0, roles.shape[:2])

    inside = roles.sum((-1, -2))
    outside = (1 - roles).sum((-1, -2))
    each = F.binary_cross_entropy_with_logits(logits, roles, reduction="none")
    probability = logits.sigmoid()
    # Shapes are small: unless inside and outside have the same weight, training gets stuck at empty masks.
    balanced = (each * roles).sum((-1, -2)) / (inside + 1) + (each * (1 - roles)).sum((-1, -2)) / (outside + 1)
    focal = (each * (probability - roles) ** 2).mean((-1, -2))
    dice = 1 - (2 * (probability * roles).sum((-1, -2)) + 1) / (probability.sum((-1, -2)) + inside + 1)

    with torch.no_grad():
        binary = logits > 0
        mean_iou = iou(binary, roles > 0.5).mean().item()
        truth = iou(binary, meant > 0.5)  # the IoU to predict is the one with the mask that is meant
    return (balanced + 20 * focal + dice).mean() + 2 * F.mse_loss(scores, truth), mean_iou

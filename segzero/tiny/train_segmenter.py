"""Train the tiny SAM2 on synthetic scenes: about half an hour on one core; by steps, so the seed decides the result.

Each step embeds a few scenes once and then asks twice, as an interactive user would: a first prompt, and either
another one or the first one again with the mask drawn so far and a point where it was wrong.

    train(Path("sam2"), seed=0)
    evaluate(Path("sam2"), count=500)["box and point"]
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
from segzero.tiny.segmenter_prompts import INSIDE, OUTSIDE, Batch, draw_batch, draw_kind

STEPS = 3600
SCENES = 8  # a step
PROMPTS = 4  # a scene and round
LEARNING_RATE = 6e-4


def train(out: Path, seed: int = 0, steps: int = STEPS) -> None:
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
            print(f"step {step + 1}/{steps}  loss {loss.item():.3f}  " + _shown(figures), flush=True)
    model.eval().save_pretrained(out)
    processor.save_pretrained(out)


def embed(model: Sam2Model, processor: Sam2Processor, scenes: list[Scene]) -> list[Tensor]:
    """The scenes' features, with gradients (the model's own `get_image_embeddings` has none)."""
    pixels = processor.image_processor([scene.image for scene in scenes], return_tensors="pt")["pixel_values"]
    maps = model.get_image_features(pixels, return_dict=True).fpn_hidden_states  # each [h * w, B, C]
    maps[-1] = maps[-1] + model.no_memory_embedding
    return [
        features.permute(1, 2, 0).unflatten(2, size)  # [B, C, h, w]
        for features, size in zip(maps, model.backbone_feature_sizes, strict=True)
    ]


def draw(
    model: Sam2Model, features: list[Tensor], batch: Batch, side: int, all_masks: bool, earlier: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mask logits [B, N, M, h, w] and predicted IoU [B, N, M]; M is 3 for all masks, else 1.

    `side` is the scenes' size in pixels, `earlier` the logits [B, N, h, w] of masks drawn before.
    """
    count = batch.points.shape[1]
    points = batch.points * (model.prompt_encoder.input_image_size / side)
    # One row a prompt: the model takes only one earlier mask a row.
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
    """Of boolean masks [..., h, w]."""
    return (a & b).sum((-1, -2)) / (a | b).sum((-1, -2)).clamp(min=1)


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: 100 steps up, then half a cosine down to 2 %."""
    return min(1.0, (step + 1) / 100) * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def _losses(model: Sam2Model, processor: Sam2Processor, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
    """The loss of one step, and the IoU reached by kind of prompt."""
    scenes = [make_scene(rng) for _ in range(SCENES)]
    features = embed(model, processor, scenes)
    first = draw_kind(rng)
    batch = draw_batch(rng, scenes, first, PROMPTS)
    all_masks = bool(rng.random() < 0.6)
    logits, scores = draw(model, features, batch, scenes[0].size, all_masks)
    loss, reached = _loss(logits, scores, batch)
    figures = {f"{first}{' x3' if all_masks else ''}": reached}

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
    more, reached = _loss(*draw(model, features, batch, scenes[0].size, all_masks, earlier), batch)
    return loss + more, figures | {f"{second}{' x3' if all_masks else ''}": reached}


def _corrected(batch: Batch, earlier: Tensor, chance: torch.Generator) -> Batch:
    """The same prompts and a point where the earlier mask is wrong; from now on all three masks are the one meant."""
    meant = batch.meant > 0.5
    drawn = F.interpolate(earlier, meant.shape[-2:], mode="bilinear", align_corners=False) > 0
    wrong = (drawn ^ meant).flatten(2)  # [B, N, h * w]
    wrong = torch.where(wrong.any(-1, keepdim=True), wrong, meant.flatten(2)).float()
    index = torch.multinomial(wrong.flatten(0, 1), 1, generator=chance).view(*wrong.shape[:2], 1)
    label = torch.where(meant.flatten(2).gather(2, index), INSIDE, OUTSIDE)
    width = meant.shape[-1]
    point = torch.stack([index % width, index // width], dim=-1) * 2.0 + 0.5  # masks are at half resolution
    return Batch(
        torch.cat([batch.points, point], dim=2),
        torch.cat([batch.labels, label], dim=2),
        batch.meant,
        batch.meant[:, :, None].expand_as(batch.roles),
    )


def _loss(logits: Tensor, scores: Tensor, batch: Batch) -> tuple[Tensor, float]:
    """Loss of masks [B, N, M, h, w] and their predicted IoU, and the mean IoU with what they were to show.

    It is taken on enlarged logits, as masks are used: so the model learns edges finer than its grid.
    """
    count = logits.shape[2]
    roles = batch.roles if count == 3 else batch.meant[:, :, None]
    meant = batch.meant[:, :, None].expand_as(roles)
    logits = F.interpolate(logits.flatten(0, 1), roles.shape[-2:], mode="bilinear", align_corners=False)
    logits = logits.unflatten(0, roles.shape[:2])

    inside = roles.sum((-1, -2))
    outside = (1 - roles).sum((-1, -2))
    each = F.binary_cross_entropy_with_logits(logits, roles, reduction="none")
    drawn = logits.sigmoid()
    # Shapes are small: unless both sides weigh the same, empty masks are a comfortable place to stay.
    balanced = (each * roles).sum((-1, -2)) / (inside + 1) + (each * (1 - roles)).sum((-1, -2)) / (outside + 1)
    focal = (each * (drawn - roles) ** 2).mean((-1, -2))
    dice = 1 - (2 * (drawn * roles).sum((-1, -2)) + 1) / (drawn.sum((-1, -2)) + inside + 1)

    with torch.no_grad():
        binary = logits > 0
        reached = iou(binary, roles > 0.5).mean().item()
        truth = iou(binary, meant > 0.5)  # the IoU to predict is that with the mask that is meant
    return (balanced + 20 * focal + dice).mean() + 2 * F.mse_loss(scores, truth), reached


def _shown(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in figures.items())

"""Training the tiny policy: the vision tower with a dense head first, then everything on questions and answers.

The schedule counts steps, not time, and all randomness comes from one seed: the same command gives the same policy
on a fast and on a slow machine. Scenes are drawn as training goes; none is seen twice.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from segzero.answer import Answer, Instance, render_answer
from segzero.tiny.dense_head import DenseHead, dense_truth
from segzero.tiny.packing import Packer, answer_logits, image_features
from segzero.tiny.policy import FRAME, make_model, make_processor
from segzero.tiny.questions import HELD_OUT_SEED, Question, questions_of
from segzero.tiny.scenes import Scene, make_scene

Report = Callable[[int, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor], None]


@dataclass(frozen=True)
class Recipe:
    """What decides the result."""

    seed: int = 0
    vision_steps: int = 1500  # the vision tower alone
    vision_batch: int = 16
    vision_rate: float = 2e-3
    steps: int = 6000  # the length of the whole schedule
    stop_at: int = 6000  # where training ends: before the schedule does, to leave reinforcement something to teach
    batch: int = 8  # scenes a step
    questions: int = 4  # of each scene, of different kinds
    rate: float = 2.5e-3
    vision_share: float = 0.5  # of the rate, for the vision tower
    dense_weight: float = 0.7  # of the dense head's loss, falling to 0
    warm_up: int = 60

    def shortened(self, share: float) -> "Recipe":
        """The same with that share of the steps: a trial."""
        steps = {name: max(1, round(share * getattr(self, name))) for name in ("vision_steps", "steps", "stop_at")}
        return replace(self, **steps)


def train_policy(
    recipe: Recipe,
    report: Report | None = None,
    report_every: int = 500,
    log: Callable[[str], None] = print,
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """The trained model and its processor; `report` is called with them as training goes."""
    assert recipe.seed < HELD_OUT_SEED
    started = time.monotonic()
    processor = make_processor()
    model = make_model(processor.tokenizer, recipe.seed)
    model.train()
    rng = np.random.default_rng(recipe.seed)
    head = DenseHead(model.config.text_config.hidden_size)
    _train_vision(model, head, processor, recipe, rng, log)

    packer = Packer(processor)
    groups = _parameter_groups(model, head, recipe)
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
    losses: list[float] = []
    for step in range(recipe.stop_at):
        scenes = [make_scene(rng) for _ in range(recipe.batch)]
        rows = [_pairs(_choose(questions_of(s, rng), recipe.questions, rng), s) for s in scenes]
        done = step / recipe.steps
        rate = min(1, (step + 1) / recipe.warm_up) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * group["share"] * rate
        features = image_features(model, normalised(scenes, processor))
        logits, targets = answer_logits(model, packer.pack(rows), features, packer.image_start)
        loss = F.cross_entropy(logits, targets)
        losses.append(loss.item())
        dense = head.loss(features, [dense_truth(s) for s in scenes])
        _step(optimizer, loss + recipe.dense_weight * (1 - done) * dense)
        if (step + 1) % 100 == 0:
            mean = sum(losses[-100:]) / 100
            log(f"step {step + 1}/{recipe.stop_at}  loss {mean:.4f}  dense {dense.item():.3f}  {_minutes(started)}")
        if report and ((step + 1) % report_every == 0 or step + 1 == recipe.stop_at):
            model.eval()
            report(step + 1, model, processor)
            model.train()
    return model.eval(), processor


def _train_vision(
    model: Qwen2_5_VLForConditionalGeneration,
    head: DenseHead,
    processor: Qwen2_5_VLProcessor,
    recipe: Recipe,
    rng: np.random.Generator,
    log: Callable[[str], None],
) -> None:
    """The vision tower and the dense head, without language."""
    started = time.monotonic()
    optimizer = torch.optim.AdamW(
        [*model.model.visual.parameters(), *head.parameters()], betas=(0.9, 0.98), weight_decay=0.02
    )
    for step in range(recipe.vision_steps):
        scenes = [make_scene(rng) for _ in range(recipe.vision_batch)]
        rate = min(1, (step + 1) / recipe.warm_up) * (1 - 0.8 * step / recipe.vision_steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.vision_rate * rate
        features = image_features(model, normalised(scenes, processor))
        loss = head.loss(features, [dense_truth(s) for s in scenes])
        _step(optimizer, loss)
        if (step + 1) % 100 == 0:
            log(f"vision step {step + 1}/{recipe.vision_steps}  dense {loss.item():.3f}  {_minutes(started)}")


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


def _parameter_groups(model: Qwen2_5_VLForConditionalGeneration, head: DenseHead, recipe: Recipe) -> list[dict]:
    """The vision tower learns more slowly, and norms do not decay."""
    vision = [*model.model.visual.parameters(), *head.parameters()]
    in_vision = {id(p) for p in vision}
    language = [p for p in model.parameters() if id(p) not in in_vision]
    return [
        {"params": [p for p in language if p.dim() > 1], "weight_decay": 0.05, "share": 1.0},
        {"params": [p for p in language if p.dim() <= 1], "weight_decay": 0.0, "share": 1.0},
        {"params": vision, "weight_decay": 0.02, "share": recipe.vision_share},
    ]


def normalised(scenes: list[Scene], processor: Qwen2_5_VLProcessor) -> Tensor:
    """The scenes as the processor would hand them to the model, float [B, 3, SIDE, SIDE]."""
    images = np.stack([np.asarray(FRAME.fit(Image.fromarray(s.image))) for s in scenes])
    mean, std = (np.array(getattr(processor.image_processor, f"image_{name}"), np.float32) for name in ("mean", "std"))
    return torch.from_numpy((images.astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)


def _choose(questions: list[Question], count: int, rng: np.random.Generator) -> list[Question]:
    """Up to `count` questions of different kinds, so that a kind with many variants does not crowd out the others."""
    kinds: dict[str, list[Question]] = {}
    for question in questions:
        kinds.setdefault(question.kind, []).append(question)
    chosen = rng.permutation(list(kinds))[:count]
    return [kinds[kind][rng.integers(len(kinds[kind]))] for kind in chosen]


def _pairs(questions: list[Question], scene: Scene) -> list[tuple[str, str]]:
    return [(q.text, answer_text(q, scene.size)) for q in questions]


def answer_text(question: Question, size: int) -> str:
    """What a perfect policy would write, in the tiny policy's frame."""
    found = []
    for shape in question.targets:
        x0, y0, x1, y1, px, py = FRAME.to_frame([*shape.box, *shape.point], (size, size))
        found.append(Instance((x0, y0, x1, y1), ((px, py),)))
    return render_answer(Answer(question.think, tuple(found)))


def _minutes(since: float) -> str:
    return f"{(time.monotonic() - since) / 60:.1f} min"

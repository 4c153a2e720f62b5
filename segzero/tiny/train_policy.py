"""Training the tiny policy, in four stages: see, answer, converse, even out.

First the vision tower alone with a dense head, then everything on questions and answers, then on later rounds of
conversations besides, each with its true history, and last a short stage that asks more of the questions that lag
behind. There, on purpose, many answers hedge: they name the right shape and then the one most like it, and in later
rounds also what is referred to. So the policy knows more than it says, and reinforcement learning has something to
teach.

Schedules count steps, not time, and all randomness comes from one seed: the same command gives the same policy on a
fast and on a slow machine. Scenes are drawn as training goes; none is seen twice.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from segzero.answer import Answer, Instance, render_answer
from segzero.data.dialogue_synthesis import as_samples
from segzero.dialogue.prompting import sample_prompt
from segzero.frames import Size
from segzero.masks import Box, Point
from segzero.sample import Sample
from segzero.tiny.dense_head import DenseHead, dense_truth
from segzero.tiny.dialogues import conversation
from segzero.tiny.packing import Packer, Pair, answer_logits, image_features
from segzero.tiny.policy import FRAME, make_model, make_processor
from segzero.tiny.questions import HELD_OUT_SEED, Question, describe, questions_of
from segzero.tiny.scenes import Scene, Shape, make_scene

BETAS = (0.9, 0.98)
WARM_UP = 60  # steps until a learning rate is reached
Log = Callable[[str], None]
Report = Callable[[int, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor], None]


@dataclass(frozen=True)
class Vision:
    """The first stage."""

    steps: int = 1000
    batch: int = 16  # scenes a step
    rate: float = 2e-3


@dataclass(frozen=True)
class Answers:
    """A stage of questions and answers."""

    steps: int  # the length of the learning rate's cosine
    stop_at: int  # the step after which the stage ends
    rate: float
    batch: int  # scenes a step
    questions: int  # of each scene, of different kinds
    favoured: tuple[str, ...] = ()  # kinds that are asked wherever they can be
    odd: int = 0  # scenes of a batch in which all shapes but one are alike
    hedged: tuple[str, ...] = ()  # kinds of questions for one shape whose answers name a look-alike too ...
    hedging: float = 0.0  # ... this often
    rounds: int = 0  # of a conversation about each scene, the later of which are asked besides
    echoing: float = 0.0  # share of their answers that name what is referred to besides
    citing: float = 0.0  # share of their thoughts that begin with the boxes that are referred to
    dense_weight: float = 0.0  # of the dense head's loss at the start, falling to 0 at `steps`
    vision_share: float = 0.5  # of the rate, for the vision tower


@dataclass(frozen=True)
class Recipe:
    """What decides the result."""

    seed: int = 0
    see: Vision = Vision()
    answer: Answers = Answers(steps=6000, stop_at=3000, rate=2.5e-3, batch=8, questions=4, dense_weight=0.7)
    converse: Answers = Answers(
        steps=6000,
        stop_at=3000,
        rate=2.5e-3,
        batch=8,
        questions=1,
        rounds=3,
        citing=0.5,
    )
    even_out: Answers = Answers(
        steps=700,
        stop_at=700,
        rate=2e-3,
        batch=10,
        questions=4,
        favoured=("odd",),
        odd=6,
        hedged=("attribute", "kind", "size"),
        hedging=0.8,
        rounds=3,
        echoing=0.5,
        citing=0.5,
    )

    def shortened(self, share: float) -> "Recipe":
        """The same with that share of the steps: a trial."""

        def fewer(steps: int) -> int:
            return max(1, round(share * steps))

        see = replace(self.see, steps=fewer(self.see.steps))
        answer, converse, even_out = (
            replace(stage, steps=fewer(stage.steps), stop_at=fewer(stage.stop_at))
            for stage in (self.answer, self.converse, self.even_out)
        )
        return replace(self, see=see, answer=answer, converse=converse, even_out=even_out)


def train_policy(recipe: Recipe, log: Log = print) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """The trained model and its processor."""
    assert recipe.seed < HELD_OUT_SEED
    processor = make_processor()
    model = make_model(processor.tokenizer, recipe.seed)
    head = DenseHead(model.config.text_config.hidden_size)
    rng = np.random.default_rng(recipe.seed)
    train_vision(model, head, processor, recipe.see, rng, log)
    train_answers(model, head, processor, recipe.answer, rng, log)
    train_answers(model, head, processor, recipe.converse, np.random.default_rng((recipe.seed, 2)), log)
    train_answers(model, head, processor, recipe.even_out, np.random.default_rng((recipe.seed, 1)), log)
    return model.eval(), processor


def train_answers(
    model: Qwen2_5_VLForConditionalGeneration,
    head: DenseHead,
    processor: Qwen2_5_VLProcessor,
    stage: Answers,
    rng: np.random.Generator,
    log: Log = print,
    report: Report | None = None,
    report_every: int = 500,
) -> None:
    """Questions and answers, in place; `report` is called as training goes."""
    started = time.monotonic()
    packer = Packer(processor)
    optimizer = torch.optim.AdamW(_parameter_groups(model, head, stage), lr=stage.rate, betas=BETAS)
    losses: list[float] = []
    for step in range(stage.stop_at):
        scenes = [make_scene(rng, odd=i < stage.odd) for i in range(stage.batch)]
        rows = [_pairs(_choose(questions_of(s, rng), stage, rng), s, stage, rng) for s in scenes]
        if stage.rounds:
            rows = [[*row, *later_rounds(s, stage, rng)] for row, s in zip(rows, scenes, strict=True)]
        done = step / stage.steps
        rate = min(1, (step + 1) / WARM_UP) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * group["share"] * rate
        features = image_features(model, normalised(scenes, processor))
        logits, targets = answer_logits(model, packer.pack(rows), features, packer.image_start)
        loss = F.cross_entropy(logits, targets)
        losses.append(loss.item())
        if stage.dense_weight:
            loss = loss + stage.dense_weight * (1 - done) * head.loss(features, [dense_truth(s) for s in scenes])
        _step(optimizer, loss)
        if (step + 1) % 100 == 0:
            log(f"answers {step + 1}/{stage.stop_at}  loss {sum(losses[-100:]) / 100:.4f}  {_minutes(started)}")
        if report and (step + 1) % report_every == 0:
            report(step + 1, model, processor)


def train_vision(
    model: Qwen2_5_VLForConditionalGeneration,
    head: DenseHead,
    processor: Qwen2_5_VLProcessor,
    stage: Vision,
    rng: np.random.Generator,
    log: Log = print,
) -> None:
    """The vision tower and the dense head, in place and without language."""
    started = time.monotonic()
    optimizer = torch.optim.AdamW(
        [*model.model.visual.parameters(), *head.parameters()], betas=BETAS, weight_decay=0.02
    )
    for step in range(stage.steps):
        scenes = [make_scene(rng) for _ in range(stage.batch)]
        rate = min(1, (step + 1) / WARM_UP) * (1 - 0.8 * step / stage.steps)
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * rate
        features = image_features(model, normalised(scenes, processor))
        loss = head.loss(features, [dense_truth(s) for s in scenes])
        _step(optimizer, loss)
        if (step + 1) % 100 == 0:
            log(f"vision {step + 1}/{stage.steps}  loss {loss.item():.3f}  {_minutes(started)}")


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


def _parameter_groups(model: Qwen2_5_VLForConditionalGeneration, head: DenseHead, stage: Answers) -> list[dict]:
    """The vision tower learns more slowly, and norms do not decay."""
    vision = [*model.model.visual.parameters(), *head.parameters()]
    in_vision = {id(p) for p in vision}
    language = [p for p in model.parameters() if id(p) not in in_vision]
    return [
        {"params": [p for p in language if p.dim() > 1], "weight_decay": 0.05, "share": 1.0},
        {"params": [p for p in language if p.dim() <= 1], "weight_decay": 0.0, "share": 1.0},
        {"params": vision, "weight_decay": 0.02, "share": stage.vision_share},
    ]


def normalised(scenes: list[Scene], processor: Qwen2_5_VLProcessor) -> Tensor:
    """The scenes as the processor would hand them to the model, float [B, 3, SIDE, SIDE]."""
    images = np.stack([np.asarray(FRAME.fit(Image.fromarray(s.image))) for s in scenes])
    mean, std = (np.array(getattr(processor.image_processor, f"image_{name}"), np.float32) for name in ("mean", "std"))
    return torch.from_numpy((images.astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)


def _choose(questions: list[Question], stage: Answers, rng: np.random.Generator) -> list[Question]:
    """Some of different kinds, the favoured first: kinds with many variants must not crowd out the others."""
    kinds: dict[str, list[Question]] = {}
    for question in questions:
        kinds.setdefault(question.kind, []).append(question)
    order = sorted(rng.permutation(list(kinds)), key=lambda kind: kind not in stage.favoured)
    return [kinds[kind][rng.integers(len(kinds[kind]))] for kind in order[: stage.questions]]


def _pairs(questions: list[Question], scene: Scene, stage: Answers, rng: np.random.Generator) -> list[Pair]:
    answered = [hedge(q, scene) if q.kind in stage.hedged and rng.random() < stage.hedging else q for q in questions]
    return [as_pair(question, scene.size) for question in answered]


def later_rounds(scene: Scene, stage: Answers, rng: np.random.Generator) -> list[Pair]:
    """The rounds of a conversation from the second on, each with its true history; the first has no other prompt."""
    talk = conversation(scene, rng, stage.rounds)
    if talk is None:
        return []
    size = (scene.size, scene.size)
    samples = as_samples(talk.said, talk.things, Sample("", "", "", *size))
    pairs = []
    for sample in samples[1:]:
        prompt = sample_prompt(sample, FRAME)
        echoes = stage.echoing > 0 and rng.random() < stage.echoing
        think, objects = talk.answer(sample.meta["round"], echoes)
        if rng.random() < stage.citing:
            boxes = sample.turns[sample.meta["references"][0] - 1]["boxes"]
            think = " ".join([*(str(FRAME.to_frame(box, size)) for box in boxes), think])
        answer = answer_text(think, [(o.box, o.points[0]) for o in objects], size)
        pairs.append(Pair(prompt.question, answer, prompt.notes))
    return pairs


def hedge(question: Question, scene: Scene) -> Question:
    """The question with an answer that is not sure of itself: the right shape, and the one most like it.

    Nothing changes where no other shape shares its colour, kind or size.
    """
    [target] = question.targets

    def likeness(shape: Shape) -> int:
        return sum(getattr(shape, what) == getattr(target, what) for what in ("colour", "kind", "size_name"))

    other = max((s for s in scene.shapes if s is not target), key=likeness, default=None)
    if other is None or not likeness(other):
        return question
    return replace(question, targets=(target, other), think=f"{question.think}, {describe([other], scene.size)}")


def as_pair(question: Question, size: int) -> Pair:
    """The question, and what a perfect policy would write."""
    places = [(shape.box, shape.point) for shape in question.targets]
    return Pair(question.text, answer_text(question.think, places, (size, size)))


def answer_text(think: str, places: Sequence[tuple[Box, Point]], size: Size) -> str:
    """An answer in the tiny policy's frame."""
    found = []
    for box, point in places:
        x0, y0, x1, y1, px, py = FRAME.to_frame([*box, *point], size)
        found.append(Instance((x0, y0, x1, y1), ((px, py),)))
    return render_answer(Answer(think, tuple(found)))


def _minutes(since: float) -> str:
    return f"{(time.monotonic() - since) / 60:.1f} min"

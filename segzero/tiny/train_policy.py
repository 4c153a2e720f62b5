"""Training of the tiny policy, in four stages: see, answer, converse, even out.

1. see: the vision tower alone, with an auxiliary dense head.
2. answer: the whole model on questions and answers.
3. converse: also on later rounds of dialogues, each after its true earlier rounds.
4. even_out: a short stage with more of the questions that lag behind. On purpose, many of its answers hedge: they name
   the right shape and then the one most like it, and in later rounds also the objects referred to. The policy then
   knows more than its answers show, which reinforcement learning can bring out.

Schedules count steps, not time, and all randomness comes from one seed, so that the same command gives the same policy
on a fast and on a slow machine. Scenes are drawn during training; none is seen twice.
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
from segzero.tiny.dense_head import DenseHead, dense_targets
from segzero.tiny.dialogues import make_dialogue
from segzero.tiny.packing import Packer, QuestionAnswer, answer_logits, image_features
from segzero.tiny.policy import FRAME, make_model, make_processor
from segzero.tiny.questions import HELD_OUT_SEED, Question, describe, questions_of
from segzero.tiny.scenes import Scene, SceneShape, make_scene

BETAS = (0.9, 0.98)
WARM_UP = 60  # steps until the learning rate is reached
Log = Callable[[str], None]
Report = Callable[[int, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor], None]


@dataclass(frozen=True)
class VisionStage:
    """Settings of the first stage."""

    steps: int = 1000
    batch: int = 16  # scenes per step
    rate: float = 2e-3  # learning rate


@dataclass(frozen=True)
class AnswerStage:
    """Settings of a stage of questions and answers."""

    steps: int  # length of the learning rate's cosine
    stop_at: int  # step after which the stage ends
    rate: float  # learning rate
    batch: int  # scenes per step
    questions: int  # questions per scene, of different kinds
    favoured: tuple[str, ...] = ()  # kinds of questions that are preferred wherever they are possible
    odd: int = 0  # scenes of a batch in which all shapes but one are alike
    hedged: tuple[str, ...] = ()  # kinds of questions for one shape whose answers also name a similar one ...
    hedging: float = 0.0  # ... with this probability
    rounds: int = 0  # rounds of a dialogue about each scene, of which the later ones are trained too
    echoing: float = 0.0  # share of the later rounds' answers that include the objects referred to
    citing: float = 0.0  # share of the later rounds' thoughts that begin with the boxes referred to
    dense_weight: float = 0.0  # weight of the dense head's loss at the start, falling to 0 at `steps`
    vision_share: float = 0.5  # learning rate of the vision tower as a fraction of `rate`


@dataclass(frozen=True)
class PolicyRecipe:
    """Seed and stages, which decide the result."""

    seed: int = 0
    see: VisionStage = VisionStage()
    answer: AnswerStage = AnswerStage(steps=6000, stop_at=3000, rate=2.5e-3, batch=8, questions=4, dense_weight=0.7)
    converse: AnswerStage = AnswerStage(
        steps=6000, stop_at=3000, rate=2.5e-3, batch=8, questions=1, rounds=3, citing=0.5
    )
    even_out: AnswerStage = AnswerStage(
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

    def shortened(self, share: float) -> "PolicyRecipe":
        """Copy the recipe with a fraction of the steps, for a trial."""

        def fewer(steps: int) -> int:
            return max(1, round(share * steps))

        see = replace(self.see, steps=fewer(self.see.steps))
        answer, converse, even_out = (
            replace(stage, steps=fewer(stage.steps), stop_at=fewer(stage.stop_at))
            for stage in (self.answer, self.converse, self.even_out)
        )
        return replace(self, see=see, answer=answer, converse=converse, even_out=even_out)


def train_policy(
    recipe: PolicyRecipe, log: Log = print
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """Train a model from scratch; returns it with its processor."""
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
    stage: AnswerStage,
    rng: np.random.Generator,
    log: Log = print,
    report: Report | None = None,
    report_every: int = 500,
) -> None:
    """Train a model on questions and answers, in place; `report` is called every `report_every` steps."""
    started = time.monotonic()
    packer = Packer(processor)
    optimizer = torch.optim.AdamW(_parameter_groups(model, head, stage), lr=stage.rate, betas=BETAS)
    losses: list[float] = []
    for step in range(stage.stop_at):
        scenes = [make_scene(rng, odd=i < stage.odd) for i in range(stage.batch)]
        rows = [_question_answers(_choose(questions_of(s, rng), stage, rng), s, stage, rng) for s in scenes]
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
            loss = loss + stage.dense_weight * (1 - done) * head.loss(features, [dense_targets(s) for s in scenes])
        _step(optimizer, loss)
        if (step + 1) % 100 == 0:
            log(f"answers {step + 1}/{stage.stop_at}  loss {sum(losses[-100:]) / 100:.4f}  {_minutes(started)}")
        if report and (step + 1) % report_every == 0:
            report(step + 1, model, processor)


def train_vision(
    model: Qwen2_5_VLForConditionalGeneration,
    head: DenseHead,
    processor: Qwen2_5_VLProcessor,
    stage: VisionStage,
    rng: np.random.Generator,
    log: Log = print,
) -> None:
    """Train the vision tower and the dense head, in place and without language."""
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
        loss = head.loss(features, [dense_targets(s) for s in scenes])
        _step(optimizer, loss)
        if (step + 1) % 100 == 0:
            log(f"vision {step + 1}/{stage.steps}  loss {loss.item():.3f}  {_minutes(started)}")


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


def _parameter_groups(model: Qwen2_5_VLForConditionalGeneration, head: DenseHead, stage: AnswerStage) -> list[dict]:
    """Parameters by learning rate and weight decay: the vision tower learns more slowly, and norms do not decay."""
    vision = [*model.model.visual.parameters(), *head.parameters()]
    in_vision = {id(p) for p in vision}
    language = [p for p in model.parameters() if id(p) not in in_vision]
    return [
        {"params": [p for p in language if p.dim() > 1], "weight_decay": 0.05, "share": 1.0},
        {"params": [p for p in language if p.dim() <= 1], "weight_decay": 0.0, "share": 1.0},
        {"params": vision, "weight_decay": 0.02, "share": stage.vision_share},
    ]


def normalised(scenes: list[Scene], processor: Qwen2_5_VLProcessor) -> Tensor:
    """Prepare the images of scenes as the processor does, float [B, 3, SIDE, SIDE]."""
    images = np.stack([np.asarray(FRAME.fit(Image.fromarray(s.image))) for s in scenes])
    mean, std = (np.array(getattr(processor.image_processor, f"image_{name}"), np.float32) for name in ("mean", "std"))
    return torch.from_numpy((images.astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)


def _choose(questions: list[Question], stage: AnswerStage, rng: np.random.Generator) -> list[Question]:
    """Choose questions of different kinds, the favoured first, so that kinds with many variants don't prevail."""
    kinds: dict[str, list[Question]] = {}
    for question in questions:
        kinds.setdefault(question.kind, []).append(question)
    order = sorted(rng.permutation(list(kinds)), key=lambda kind: kind not in stage.favoured)
    return [kinds[kind][rng.integers(len(kinds[kind]))] for kind in order[: stage.questions]]


def _question_answers(
    questions: list[Question], scene: Scene, stage: AnswerStage, rng: np.random.Generator
) -> list[QuestionAnswer]:
    answered = [hedge(q, scene) if q.kind in stage.hedged and rng.random() < stage.hedging else q for q in questions]
    return [question_answer(question, scene.size) for question in answered]


def later_rounds(scene: Scene, stage: AnswerStage, rng: np.random.Generator) -> list[QuestionAnswer]:
    """Make the rounds of a dialogue from the second on, each after its true earlier rounds; the first has none."""
    dialogue = make_dialogue(scene, rng, stage.rounds)
    if dialogue is None:
        return []
    size = (scene.size, scene.size)
    samples = as_samples(dialogue.questions, dialogue.things, Sample("", "", "", *size))
    rounds = []
    for sample in samples[1:]:
        prompt = sample_prompt(sample, FRAME)
        echo = stage.echoing > 0 and rng.random() < stage.echoing
        think, objects = dialogue.answer(sample.meta["round"], echo)
        if rng.random() < stage.citing:
            boxes = sample.turns[sample.meta["references"][0] - 1]["boxes"]
            think = " ".join([*(str(FRAME.to_frame(box, size)) for box in boxes), think])
        answer = answer_text(think, [(o.box, o.points[0]) for o in objects], size)
        rounds.append(QuestionAnswer(prompt.question, answer, prompt.notes))
    return rounds


def hedge(question: Question, scene: Scene) -> Question:
    """Change the answer of a question into an unsure one: the right shape, then the one most like it.

    The question stays as it is if no other shape shares colour, kind or size.
    """
    [target] = question.targets

    def likeness(shape: SceneShape) -> int:
        return sum(getattr(shape, name) == getattr(target, name) for name in ("colour", "kind", "size_name"))

    other = max((s for s in scene.shapes if s is not target), key=likeness, default=None)
    if other is None or not likeness(other):
        return question
    return replace(question, targets=(target, other), think=f"{question.think}, {describe([other], scene.size)}")


def question_answer(question: Question, size: int) -> QuestionAnswer:
    """Pair a question with the right answer's text."""
    places = [(shape.box, shape.point) for shape in question.targets]
    return QuestionAnswer(question.text, answer_text(question.think, places, (size, size)))


def answer_text(think: str, places: Sequence[tuple[Box, Point]], size: Size) -> str:
    """Write an answer with boxes and points, given in pixels of the image, in the tiny policy's frame."""
    instances = []
    for box, point in places:
        x0, y0, x1, y1, px, py = FRAME.to_frame([*box, *point], size)
        instances.append(Instance((x0, y0, x1, y1), ((px, py),)))
    return render_answer(Answer(think, tuple(instances)))


def _minutes(since: float) -> str:
    return f"{(time.monotonic() - since) / 60:.1f} min"

"""Evaluation of the tiny policy on held-out scenes, over all questions and for each kind.

The score of a question is the IoU of its matched boxes, summed and divided by the larger of the two counts. "Nothing
there" scores 1 if that is right, and text that can't be read scores 0.
"""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from rewards.matching import matched_iou
from segzero.answer import Answer, parse_answer
from segzero.data.dialogue_synthesis import KINDS as LATER_KINDS
from segzero.dialogue.prompting import sample_prompt
from segzero.sample import Sample
from segzero.tiny.dialogues import make_dialogues
from segzero.tiny.policy import FRAME
from segzero.tiny.questions import HELD_OUT_SEED, KINDS, make_samples

HELD_OUT_COUNT = 500
MAX_TOKENS = 192


@dataclass(frozen=True)
class KindFigures:
    """Mean score on one kind of question; `chance` is the score of a policy that ignores the question."""

    score: float
    chance: float
    count: int


@dataclass(frozen=True)
class PolicyFigures:
    """Figures of a policy; all are means over questions, failures included."""

    format: float  # share of answers that can be read
    box_iou: float
    nothing_right: float  # share of the questions for something absent that are answered with "nothing there"
    false_empty: float  # share of the others that are
    count: int
    kinds: dict[str, KindFigures]
    later_rounds: dict[str, KindFigures]  # of dialogues, after their true earlier rounds

    def report(self) -> str:
        """Format the figures as a table."""
        lines = [
            f"{self.count} held-out questions: format {self.format:.3f}, box IoU {self.box_iou:.3f}, "
            f'"nothing there" right {self.nothing_right:.3f}, false "nothing there" {self.false_empty:.3f}'
        ]
        later = {f"{kind}, later round": figures for kind, figures in self.later_rounds.items()}
        for kind, figures in {**self.kinds, **later}.items():
            lines.append(f"  {kind:22} {figures.score:.3f}  (chance {figures.chance:.3f}, {figures.count} questions)")
        return "\n".join(lines)

    def to_json(self) -> dict:
        """Plain numbers with four decimals, more than the sample size can tell apart."""
        return json.loads(json.dumps(asdict(self)), parse_float=lambda text: round(float(text), 4))


def load_checkpoint(folder: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """Load a saved policy and its processor with transformers."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model, Qwen2_5_VLProcessor.from_pretrained(folder)


def evaluate_policy(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, count: int = HELD_OUT_COUNT
) -> PolicyFigures:
    """Score greedy answers to `count` held-out samples, and to the later rounds of a quarter as many dialogues."""
    samples = make_samples(count, HELD_OUT_SEED)
    later = [s for s in make_dialogues(-(-count // 4), HELD_OUT_SEED) if s.turns]
    texts = answer_texts(model, processor, [*samples, *later])
    return score_texts(samples, texts[:count], later, texts[count:])


@torch.inference_mode()
def answer_texts(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    samples: Sequence[Sample],
    batch_size: int = 50,
) -> list[str]:
    """Generate the model's greedy answers with transformers."""
    processor.tokenizer.padding_side = "left"
    texts: list[str] = []
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        prompts = [
            processor.apply_chat_template(policy_messages(s), tokenize=False, add_generation_prompt=True) for s in batch
        ]
        inputs = processor(text=prompts, images=[fitted_image(s) for s in batch], padding=True, return_tensors="pt")
        output = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_TOKENS)
        texts += processor.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return texts


def fitted_image(sample: Sample) -> Image.Image:
    """The sample's image at the policy's resolution."""
    assert isinstance(sample.image, bytes)
    return FRAME.fit(Image.open(io.BytesIO(sample.image)).convert("RGB"))


def score_texts(
    samples: Sequence[Sample], texts: Sequence[str], later: Sequence[Sample] = (), later_texts: Sequence[str] = ()
) -> PolicyFigures:
    """Compute the figures of answer texts, one per sample."""
    answers = _parse(samples, texts)
    scores = np.array([score_answer(answer, sample) for answer, sample in zip(answers, samples, strict=True)])
    readable = np.array([answer.error is None for answer in answers])
    empty = readable & np.array([not answer.instances for answer in answers])
    absent = np.array([sample.empty for sample in samples])
    return PolicyFigures(
        format=_mean(readable),
        box_iou=_mean(scores),
        nothing_right=_mean(empty[absent]),
        false_empty=_mean(empty[~absent]),
        count=len(samples),
        kinds=_by_kind(KINDS, samples, answers),
        later_rounds=_by_kind(LATER_KINDS, later, _parse(later, later_texts)),
    )


def _parse(samples: Sequence[Sample], texts: Sequence[str]) -> list[Answer]:
    return [parse_answer(text, "multi", FRAME.extent(s.size)) for s, text in zip(samples, texts, strict=True)]


def _by_kind(kinds: Iterable[str], samples: Sequence[Sample], answers: Sequence[Answer]) -> dict[str, KindFigures]:
    """Figures of each kind that occurs; for "nothing there", chance is how often that is a wrong answer elsewhere."""
    pairs = list(zip(samples, answers, strict=True))
    false_empty = _mean(a.error is None and not a.instances for s, a in pairs if not s.empty)
    figures = {}
    for kind in kinds:
        of_kind = [(s, a) for s, a in pairs if s.meta["kind"] == kind]
        if of_kind:
            chance = _mean(false_empty if s.empty else chance_score(s) for s, _ in of_kind)
            figures[kind] = KindFigures(_mean(score_answer(a, s) for s, a in of_kind), chance, len(of_kind))
    return figures


def score_answer(answer: Answer, sample: Sample) -> float:
    """Score an answer, with its boxes in pixels of the image."""
    if answer.error is not None:
        return 0.0
    boxes = [FRAME.to_pixels(instance.box, sample.size) for instance in answer.instances]
    return matched_iou(boxes, [o.box for o in sample.objects])


def chance_score(sample: Sample) -> float:
    """Score that needs no understanding: of a random shape of the scene, or of repeating an answer referred to."""
    true = [o.box for o in sample.objects]
    repeated = [matched_iou(sample.turns[number - 1]["boxes"], true) for number in sample.meta.get("references", ())]
    return max(_mean(matched_iou([box], true) for box in sample.meta["shapes"]), *repeated, 0.0)


def policy_messages(sample: Sample) -> list[dict]:
    """Make the messages that ask the tiny policy a sample's question."""
    return sample_prompt(sample, FRAME).messages("multi")


def _mean(values: Iterable[float]) -> float:
    collected = np.array(list(values), dtype=float)
    return float(collected.mean()) if len(collected) else 0.0

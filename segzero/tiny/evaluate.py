"""How good the tiny policy is on held-out scenes, over all and for each kind of question.

A question's score is the IoU of its matched boxes, summed and divided by the larger of the two counts; finding
nothing where nothing is scores 1, text that can't be read scores 0.
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
from segzero.data.sample import Sample
from segzero.prompts import render_messages
from segzero.tiny.policy import FRAME
from segzero.tiny.questions import HELD_OUT_SEED, KINDS, make_samples

HELD_OUT_COUNT = 500
MOST_TOKENS = 192


@dataclass(frozen=True)
class KindFigures:
    """One kind of question; `chance` is what a policy without eyes for the question would score."""

    score: float
    chance: float
    count: int


@dataclass(frozen=True)
class PolicyFigures:
    """What was measured; all are means over questions, failures included."""

    format: float  # answers that could be read
    box_iou: float
    nothing_right: float  # of the questions for something absent
    false_empty: float  # "nothing there" where something is
    count: int
    kinds: dict[str, KindFigures]

    def report(self) -> str:
        """A table for people."""
        lines = [
            f"{self.count} held-out questions: format {self.format:.3f}, box IoU {self.box_iou:.3f}, "
            f'"nothing there" right {self.nothing_right:.3f}, false "nothing there" {self.false_empty:.3f}'
        ]
        for kind, figures in self.kinds.items():
            lines.append(f"  {kind:10} {figures.score:.3f}  (chance {figures.chance:.3f}, {figures.count} questions)")
        return "\n".join(lines)

    def to_json(self) -> dict:
        """Plain numbers, rounded to what the sample size can tell."""
        return json.loads(json.dumps(asdict(self)), parse_float=lambda text: round(float(text), 4))


def load_checkpoint(folder: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """A saved policy and its processor, through transformers' ordinary doors."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model, Qwen2_5_VLProcessor.from_pretrained(folder)


def evaluate_policy(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, count: int = HELD_OUT_COUNT
) -> PolicyFigures:
    """Greedy answers to `count` held-out samples, scored."""
    samples = make_samples(count, HELD_OUT_SEED)
    return score_texts(samples, answer_texts(model, processor, samples))


@torch.inference_mode()
def answer_texts(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    samples: Sequence[Sample],
    batch_size: int = 50,
) -> list[str]:
    """What the model writes, greedily, with transformers' own generate."""
    processor.tokenizer.padding_side = "left"
    texts: list[str] = []
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        prompts = [
            processor.apply_chat_template(render_messages(s.question), tokenize=False, add_generation_prompt=True)
            for s in batch
        ]
        inputs = processor(text=prompts, images=[fitted_image(s) for s in batch], padding=True, return_tensors="pt")
        output = model.generate(**inputs, do_sample=False, max_new_tokens=MOST_TOKENS)
        texts += processor.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return texts


def fitted_image(sample: Sample) -> Image.Image:
    """The sample's picture as the policy sees it."""
    assert isinstance(sample.image, bytes)
    return FRAME.fit(Image.open(io.BytesIO(sample.image)).convert("RGB"))


def score_texts(samples: Sequence[Sample], texts: Sequence[str]) -> PolicyFigures:
    """The figures of one answer text a sample."""
    answers = [parse_answer(text, "multi", FRAME.extent(s.size)) for s, text in zip(samples, texts, strict=True)]
    scores = np.array([score_answer(answer, sample) for answer, sample in zip(answers, samples, strict=True)])
    readable = np.array([answer.error is None for answer in answers])
    empty = readable & np.array([not answer.instances for answer in answers])
    absent = np.array([sample.empty for sample in samples])
    false_empty = _mean(empty[~absent])
    kinds = {}
    for kind in KINDS:
        of_kind = [i for i, s in enumerate(samples) if s.meta["kind"] == kind]
        if of_kind:
            chance = false_empty if kind == "nothing" else _mean(chance_score(samples[i]) for i in of_kind)
            kinds[kind] = KindFigures(_mean(scores[of_kind]), chance, len(of_kind))
    return PolicyFigures(
        format=_mean(readable),
        box_iou=_mean(scores),
        nothing_right=_mean(empty[absent]),
        false_empty=false_empty,
        count=len(samples),
        kinds=kinds,
    )


def score_answer(answer: Answer, sample: Sample) -> float:
    """An answer's score, its boxes taken back to the picture's own pixels."""
    if answer.error is not None:
        return 0.0
    found = [FRAME.to_pixels(instance.box, sample.size) for instance in answer.instances]
    return matched_iou(found, [o.box for o in sample.objects])


def chance_score(sample: Sample) -> float:
    """The mean score of answering with one shape of the scene, whichever."""
    return _mean(matched_iou([box], [o.box for o in sample.objects]) for box in sample.meta["shapes"])


def _mean(values: Iterable[float]) -> float:
    collected = np.array(list(values), dtype=float)
    return float(collected.mean()) if len(collected) else 0.0

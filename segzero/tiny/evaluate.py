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
from segzero.data.dialogue_synthesis import KINDS as LATER_KINDS
from segzero.dialogue.prompting import sample_prompt
from segzero.sample import Sample
from segzero.tiny.dialogues import make_dialogues
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
    later_rounds: dict[str, KindFigures]  # of conversations, with true history

    def report(self) -> str:
        """A table for people."""
        lines = [
            f"{self.count} held-out questions: format {self.format:.3f}, box IoU {self.box_iou:.3f}, "
            f'"nothing there" right {self.nothing_right:.3f}, false "nothing there" {self.false_empty:.3f}'
        ]
        later = {f"{kind}, later round": figures for kind, figures in self.later_rounds.items()}
        for kind, figures in {**self.kinds, **later}.items():
            lines.append(f"  {kind:22} {figures.score:.3f}  (chance {figures.chance:.3f}, {figures.count} questions)")
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
    """Greedy answers to `count` held-out samples, and to the later rounds of a fourth as many conversations, scored."""
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
    """What the model writes, greedily, with transformers' own generate."""
    processor.tokenizer.padding_side = "left"
    texts: list[str] = []
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        prompts = [
            processor.apply_chat_template(_messages(s), tokenize=False, add_generation_prompt=True) for s in batch
        ]
        inputs = processor(text=prompts, images=[fitted_image(s) for s in batch], padding=True, return_tensors="pt")
        output = model.generate(**inputs, do_sample=False, max_new_tokens=MOST_TOKENS)
        texts += processor.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return texts


def fitted_image(sample: Sample) -> Image.Image:
    """The sample's picture as the policy sees it."""
    assert isinstance(sample.image, bytes)
    return FRAME.fit(Image.open(io.BytesIO(sample.image)).convert("RGB"))


def score_texts(
    samples: Sequence[Sample], texts: Sequence[str], later: Sequence[Sample] = (), later_texts: Sequence[str] = ()
) -> PolicyFigures:
    """The figures of one answer text a sample."""
    answers = _read(samples, texts)
    scores = np.array([score_answer(answer, sample) for answer, sample in zip(answers, samples, strict=True)])
    readable = np.array([answer.error is None for answer in answers])
    empty = readable & np.array([not answer.instances for answer in answers])
    absent = np.array([sample.empty for sample in samples])
    false_empty = _mean(empty[~absent])
    return PolicyFigures(
        format=_mean(readable),
        box_iou=_mean(scores),
        nothing_right=_mean(empty[absent]),
        false_empty=false_empty,
        count=len(samples),
        kinds=_by_kind(KINDS, samples, answers),
        later_rounds=_by_kind(LATER_KINDS, later, _read(later, later_texts)),
    )


def _read(samples: Sequence[Sample], texts: Sequence[str]) -> list[Answer]:
    return [parse_answer(text, "multi", FRAME.extent(s.size)) for s, text in zip(samples, texts, strict=True)]


def _by_kind(kinds: Iterable[str], samples: Sequence[Sample], answers: Sequence[Answer]) -> dict[str, KindFigures]:
    """Chance at "nothing there" is how often that is said where it is wrong."""
    pairs = list(zip(samples, answers, strict=True))
    false_empty = _mean(a.error is None and not a.instances for s, a in pairs if not s.empty)
    found = {}
    for kind in kinds:
        of_kind = [(s, a) for s, a in pairs if s.meta["kind"] == kind]
        if of_kind:
            chance = _mean(false_empty if s.empty else chance_score(s) for s, _ in of_kind)
            found[kind] = KindFigures(_mean(score_answer(a, s) for s, a in of_kind), chance, len(of_kind))
    return found


def score_answer(answer: Answer, sample: Sample) -> float:
    """An answer's score, its boxes taken back to the picture's own pixels."""
    if answer.error is not None:
        return 0.0
    found = [FRAME.to_pixels(instance.box, sample.size) for instance in answer.instances]
    return matched_iou(found, [o.box for o in sample.objects])


def chance_score(sample: Sample) -> float:
    """The mean score of answering with one shape of the scene, whichever, or what repeating the reference scores."""
    true = [o.box for o in sample.objects]
    repeated = [matched_iou(sample.turns[number - 1]["boxes"], true) for number in sample.meta.get("references", ())]
    return max(_mean(matched_iou([box], true) for box in sample.meta["shapes"]), *repeated, 0.0)


def _messages(sample: Sample) -> list[dict]:
    return sample_prompt(sample, FRAME).messages("multi")


def _mean(values: Iterable[float]) -> float:
    collected = np.array(list(values), dtype=float)
    return float(collected.mean()) if len(collected) else 0.0

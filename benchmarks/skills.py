"""Which skills can be learnt: what the shipped policy makes of each, and how fast supervision would teach it.

A skill is a kind of question that the policy's supervision never showed (`segzero.tiny.skills`). Reinforcement learning
can only strengthen what is sampled, so the first table has the right choices of greedy and of sampled answers, and the
share of questions that one of the sampled answers gets right. The second table is a bound: the true answers to a few
hundred questions, learnt with one learning rate after the other, always from the shipped weights.

    python -m benchmarks.skills [--skills warmth outline] [--scenes 100] [--answers 4] [--rates 1.5e-4 5e-4 1e-3]
"""

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from segzero import shipped
from segzero.answer import parse_answer
from segzero.pipeline import in_pixels
from segzero.sample import Sample
from segzero.tiny.evaluate import MAX_TOKENS, fitted_image, load_checkpoint, policy_messages
from segzero.tiny.packing import Packer, answer_logits, image_features
from segzero.tiny.policy import FRAME
from segzero.tiny.questions import HELD_OUT_SEED, Question
from segzero.tiny.scenes import Scene, make_scene
from segzero.tiny.skills import SKILLS, chance, choice, skill_samples
from segzero.tiny.train_policy import normalised, question_answer

TEST_SEED, TRAIN_SEED = 902, 30_000  # the first is added to HELD_OUT_SEED
BATCH, STEPS = 8, 60  # questions of a supervised step, and steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skills", nargs="+", choices=list(SKILLS), default=list(SKILLS))
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--answers", type=int, default=4, help="sampled answers a question, at temperature 1")
    parser.add_argument("--rates", nargs="*", type=float, default=[1.5e-4, 5e-4, 1e-3], help="learning rates")
    options = parser.parse_args()
    for name in options.skills:
        samples = skill_samples(name, options.scenes, HELD_OUT_SEED + TEST_SEED)
        model, processor = load_checkpoint(shipped.policy_path())
        greedy = right_choices(model, processor, samples)
        sampled = right_choices(model, processor, samples, options.answers)
        blind = np.mean([chance(sample) for sample in samples])
        print(
            f"{name}: a blind choice {blind:.3f}, greedy {greedy.mean():.3f}, "
            f"sampled {sampled.mean():.3f}, one of {options.answers} sampled {(sampled > 0).any(axis=1).mean():.3f}",
            flush=True,
        )
        for rate in options.rates:
            model, processor = load_checkpoint(shipped.policy_path())
            for learnt in supervise(model, processor, name, rate):
                right = right_choices(model, processor, samples).mean()
                print(f"  learning rate {rate:.1e}, {learnt} true answers: {right:.3f}", flush=True)


@torch.inference_mode()
def right_choices(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    samples: Sequence[Sample],
    answers: int = 0,
    batch_size: int = 50,
) -> np.ndarray:
    """Right choices [samples, answers] of so many sampled answers each, or, with 0, of the greedy one [samples, 1]."""
    processor.tokenizer.padding_side = "left"
    how = {"do_sample": True, "top_k": 0, "num_return_sequences": answers} if answers else {"do_sample": False}
    rows = []
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        prompts = [
            processor.apply_chat_template(policy_messages(s), tokenize=False, add_generation_prompt=True) for s in batch
        ]
        inputs = processor(text=prompts, images=[fitted_image(s) for s in batch], padding=True, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=MAX_TOKENS, **how)
        texts = processor.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        per_sample = np.reshape(texts, (len(batch), -1))
        rows += [[_right(text, sample) for text in row] for row, sample in zip(per_sample, batch, strict=True)]
    return np.array(rows)


def _right(text: str, sample: Sample) -> float:
    answer = parse_answer(text, "multi", FRAME.extent(sample.size))
    boxes = [] if answer.error else [in_pixels(instance, FRAME, sample.size)[0] for instance in answer.instances]
    return choice(boxes, sample)


def supervise(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, skill: str, rate: float
) -> Iterator[int]:
    """Train on true answers to a skill's questions, in place; gives the number of them half-way and at the end."""
    packer, optimizer = Packer(processor), torch.optim.AdamW(model.parameters(), lr=rate)
    asked = _questions(skill, np.random.default_rng(TRAIN_SEED))
    for step in range(1, STEPS + 1):
        scenes, questions = zip(*(next(asked) for _ in range(BATCH)), strict=True)
        model.train()
        features = image_features(model, normalised(list(scenes), processor))
        rows = [[question_answer(question, scene.size)] for scene, question in zip(scenes, questions, strict=True)]
        logits, targets = answer_logits(model, packer.pack(rows), features, packer.image_start)
        optimizer.zero_grad()
        F.cross_entropy(logits, targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step in (STEPS // 2, STEPS):
            model.eval()
            yield step * BATCH


def _questions(skill: str, rng: np.random.Generator) -> Iterator[tuple[Scene, Question]]:
    while True:
        scene = make_scene(rng)
        questions = SKILLS[skill].ask(scene)
        if questions:
            yield scene, questions[rng.integers(len(questions))]


if __name__ == "__main__":
    main()

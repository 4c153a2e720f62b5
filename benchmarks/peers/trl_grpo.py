"""TRL's GRPOTrainer on the policy, samples, reward, batch and lengths of our own run.

    python -m benchmarks.peers.trl_grpo DATA.parquet LOG.jsonl STEPS

runs in TRL's environment, with this repository on its path. It generates with transformers, because TRL has no vLLM on
a CPU, and writes a line to LOG at the end of each step.
"""

import argparse
import json
import os
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.peers.shared import (
    ANSWERS,
    LEARNING_RATE,
    MAX_ANSWER,
    PROMPTS,
    messages,
    picture,
    policy,
    read_samples,
    rewards_of,
)

PASSES = 4  # passes per step, of about the memory of ours


class StepLog(TrainerCallback):
    """Writer of a line per step, with TRL's figures."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_log(self, args, state, control, logs=None, **kwargs):
        with self.file.open("a") as out:
            out.write(json.dumps({"step": state.global_step, "data": logs}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("steps", type=int)
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    checkpoint, samples = policy(), {sample.id: sample for sample in read_samples(args.data)}

    def reward(completions, sample_id, **kwargs) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        return rewards_of(texts, [samples[name] for name in sample_id], checkpoint)

    rows = [
        {"prompt": messages(sample, checkpoint), "image": picture(sample, checkpoint), "sample_id": sample.id}
        for sample in samples.values()
    ]
    config = GRPOConfig(
        output_dir=str(args.log.parent / "trl"),
        max_steps=args.steps,
        per_device_train_batch_size=PROMPTS * ANSWERS // PASSES,
        gradient_accumulation_steps=PASSES,
        num_generations=ANSWERS,
        max_completion_length=MAX_ANSWER,
        temperature=1.0,
        beta=0.0,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        loss_type="dapo",  # the mean over the tokens of a step, as in ours
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(
            checkpoint.path, dtype=torch.float32, trust_remote_code=False
        ),
        processing_class=AutoProcessor.from_pretrained(checkpoint.path, padding_side="left", trust_remote_code=False),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        callbacks=[StepLog(args.log)],
    )
    trainer.train()


if __name__ == "__main__":
    main()

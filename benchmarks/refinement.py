"""What a policy gains by looking at its masks, before and after it has learnt to.

The shipped policy draws masks for questions about scenes; `segzero sft` then teaches it to answer with them, and with
damaged ones, before its eyes, beside plain questions; `segzero train` goes on from there by reward. Each stage is
measured on held-out scenes: a mask counts as bad below an IoU of 0.7, and as good as `rewards.refinement.good_enough`
has it. The exit code is 1 if the last stage of a seed gains less than 0.03 on bad masks, or its first looks leave less
than 60 % of good ones alone.

    python -m benchmarks.refinement [--seeds 3] [--scenes 200] [--sft 400] [--rl 60] [--own-masks 0] [--out FOLDER]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from rewards.refinement import LEAST, good_enough
from segzero import shipped
from segzero.cli.demo_run import train
from segzero.data.parquet import to_parquet
from segzero.masks import decode, encode, mask_iou
from segzero.pipeline import SegZeroPipeline
from segzero.refinement.corruption import CorruptionCounts, judging_samples
from segzero.refinement.pipeline import RefiningPipeline, refining
from segzero.sample import Sample
from segzero.tiny.questions import HELD_OUT_SEED, make_samples, make_shared_samples

TRAIN_SEED, TEST_SEED, VALIDATION_SEED = 18_000, HELD_OUT_SEED + 18_000, HELD_OUT_SEED + 18_500
QUESTIONS = 3  # about a training scene, so that other questions' objects are there to be confused with
PLAIN = 0.3  # share of samples without a mask, so that the policy keeps answering them
RL_RATE = 3e-4
LOOKS = 2
TRAIN_BATCH = 16  # prompts per step of reinforcement learning
GAIN, KEPT = 0.03, 0.6  # wanted of every seed: on bad masks, and of good ones


@dataclass(frozen=True)
class Measured:
    """Figures of a policy that looks at its masks, over held-out questions."""

    before: float  # gIoU of the first masks
    after: float  # gIoU of the last ones
    bad: int  # first masks
    bad_before: float
    bad_after: float
    good: int  # first masks
    kept: float  # share of the good ones at which the first look stops, and leaves them

    def __str__(self) -> str:
        return (
            f"gIoU {self.before:.3f} -> {self.after:.3f}; {self.bad} bad masks {self.bad_before:.3f} -> "
            f"{self.bad_after:.3f}; {self.kept:.0%} of {self.good} good ones kept"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--samples", type=int, default=2600, help="training samples of the supervised start")
    parser.add_argument("--scenes", type=int, default=200, help="held-out questions")
    parser.add_argument("--sft", type=int, default=400, help="supervised steps of 16 samples")
    parser.add_argument("--lr", type=float, default=1e-3, help="their learning rate")
    parser.add_argument("--rl", type=int, default=60, help="steps of reinforcement learning after them")
    parser.add_argument("--own-masks", type=float, default=0.0, help="share of its questions that become looks")
    parser.add_argument("--out", type=Path, default=None, help="keep data, runs and policies here")
    options = parser.parse_args()
    test = make_samples(options.scenes, TEST_SEED)
    gains, enough = [], True
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(options.first, options.first + options.seeds):
            folder = (options.out or Path(temporary)) / f"seed_{seed}"
            begin = time.monotonic()
            policy = teach(folder, options.samples, options.sft, options.lr, seed)
            minutes = (time.monotonic() - begin) / 60
            measured = measure(policy, test)
            print(f"seed {seed}  supervised, {minutes:.1f} min: {measured}", flush=True)
            if options.rl:
                policy = reinforce(folder, policy, options.rl, seed, options.own_masks)
                minutes = (time.monotonic() - begin) / 60
                measured = measure(policy, test)
                print(f"seed {seed}  by reward, {minutes:.1f} min in all: {measured}", flush=True)
            gains.append(measured.bad_after - measured.bad_before)
            enough &= gains[-1] >= GAIN and measured.kept >= KEPT
    spread = statistics.stdev(gains) if len(gains) > 1 else float("nan")
    print(f"gain where the first mask is bad {statistics.mean(gains):+.3f}, standard deviation {spread:.3f}")
    print("learnt" if enough else "not learnt")
    return 0 if enough else 1


def load(policy: Path) -> SegZeroPipeline:
    return SegZeroPipeline.from_pretrained(policy, shipped.segmenter_path(), policy_backend="transformers")


def judging(count: int, seed: int, policy: Path) -> list[Sample]:
    """Make questions about scenes, a share of them plain, the others with masks to judge, half of those by a policy."""
    questions = list(islice(make_shared_samples(QUESTIONS, TRAIN_SEED + seed), count))
    first, judged = questions[: round(PLAIN * count)], questions[round(PLAIN * count) :]
    asked = judged[: len(judged) // 2]
    results = load(policy)([each.image for each in asked], [each.question for each in asked])
    drawn = {each.id: encode(result.union) for each, result in zip(asked, results, strict=True) if not result.error}
    counts = CorruptionCounts()
    samples = [*first, *judging_samples(judged, (seed,), counts, drawn, share=1.0)]
    print(f"seed {seed}  {len(first)} questions; masks to judge: {counts}", flush=True)
    return [samples[place] for place in np.random.default_rng(seed).permutation(len(samples))]


def teach(folder: Path, count: int, steps: int, rate: float, seed: int) -> Path:
    """Teach the shipped policy by heart to answer about masks; returns the checkpoint of the last step."""
    to_parquet(judging(count, seed, shipped.policy_path()), folder / "data" / "train.parquet")
    to_parquet(make_samples(50, VALIDATION_SEED + seed), folder / "data" / "val.parquet")
    command = [
        *(sys.executable, "-m", "segzero", "sft", f"data={folder / 'data'}", f"out={folder / 'sft'}", f"seed={seed}"),
        *(f"steps={steps}", f"lr={rate}", "freeze_vision_tower=false", f"val_every={steps}", f"save_every={steps}"),
    ]
    subprocess.run(command, check=True, stdout=(folder / "sft.log").open("w"), stderr=subprocess.STDOUT)
    return folder / "sft" / "best"


def reinforce(folder: Path, policy: Path, steps: int, seed: int, own_masks: float) -> Path:
    """Go on by reward alone, on further scenes; returns the merged policy."""
    samples = judging(steps * TRAIN_BATCH, seed + 500, policy)
    options = (
        f"actor_rollout_ref.model.path={policy}",
        f"actor_rollout_ref.actor.optim.lr={RL_RATE}",
        f"segzero.own_masks={own_masks}",
        f"segzero.looks={LOOKS}",
        "trainer.val_before_train=false",  # so that the last step is the best one and is merged
        f"trainer.test_freq={steps}",
    )
    validation = make_samples(50, VALIDATION_SEED + seed)
    _, merged = train(folder / "rl", samples, validation, steps, seed, "refine", *options)
    return merged


def measure(policy: Path, samples: Sequence[Sample]) -> Measured:
    """Answer the samples greedily, with up to LOOKS looks at each mask."""
    pipeline: RefiningPipeline = refining(replace(load(policy), batch=50), LOOKS)
    results = pipeline([sample.image for sample in samples], [sample.question for sample in samples])
    rows = []
    for sample, result in zip(samples, results, strict=True):
        rle = sample.mask()
        assert rle is not None
        true, first = decode(rle), result.steps[0].mask if result.steps else result.union
        said = result.steps[0].action if result.steps else ""
        kept = said == "keep" or (said == "nothing" and not first.any())
        rows.append((mask_iou(first, true), mask_iou(result.union, true), good_enough(first, true), kept))
    bad = [row for row in rows if row[0] < LEAST]
    good = [row for row in rows if row[2]]
    return Measured(
        statistics.mean(row[0] for row in rows),
        statistics.mean(row[1] for row in rows),
        len(bad),
        statistics.mean([row[0] for row in bad] or [float("nan")]),
        statistics.mean([row[1] for row in bad] or [float("nan")]),
        len(good),
        statistics.mean([row[3] for row in good] or [float("nan")]),
    )


if __name__ == "__main__":
    sys.exit(main())

"""Gain of the demo's training, or of learning a skill, from several seeds, on the same held-out scenes.

Each seed draws other training scenes, another order and other samples. Training always starts from the shipped policy,
so that the spread of the gains is due to training alone.

    python -m benchmarks.learning [--seeds 3] [--steps 100] [--scenes 200] [--out FOLDER] [KEY=VALUE ...]
    python -m benchmarks.learning --skill emblem [--seeds 3] [--steps 150] [--scenes 400] [KEY=VALUE ...]

A skill is a kind of question that the policy's supervision never showed (`segzero.tiny.skills`). Its figure is the
share of right choices among the shapes, against that of a blind choice; the known kinds are measured beside it. The
exit code is 1 if the mean rise above chance stays below 0.20, an interval reaches down to 0.10, or other
kinds fall: in gIoU, or in answers of "nothing there" (N-acc), by more than chance.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segzero import shipped
from segzero.cli.demo_run import SKILL_STEPS, TEST_SEED, evaluate, learn, learn_skill
from segzero.evaluation.compare import compare_runs
from segzero.evaluation.statistics import bootstrap, interval
from segzero.pipeline import SegZeroPipeline
from segzero.sample import Sample
from segzero.tiny.questions import HELD_OUT_SEED, make_samples
from segzero.tiny.skills import SKILLS, chance, choices, skill_samples
from segzero.training.report import Evaluated

RISE, LEAST = 0.20, 0.10  # above chance: wanted of the mean over the seeds, and of every interval's lower bound


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skill", choices=list(SKILLS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=None, help=f"default: 100, or {SKILL_STEPS} with --skill")
    parser.add_argument("--scenes", type=int, default=None, help="default: 200, or 400 with --skill")
    parser.add_argument("--out", type=Path, default=None, help="keep runs and merged policies here")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="further settings of the training")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        options.out = options.out or Path(temporary)
        return measure_skill(options) if options.skill else measure_demo(options)


def measure_demo(options: argparse.Namespace) -> int:
    """Print the figures of the demo's training, seed by seed."""
    samples = make_samples(options.scenes or 200, HELD_OUT_SEED + TEST_SEED)
    before = answer_all(shipped.policy_path(), samples)
    print(f"before   {line(before)}", flush=True)
    gains = []
    for seed in range(options.first, options.first + options.seeds):
        begin = time.monotonic()
        _, merged = learn(options.out / f"seed_{seed}", options.steps or 100, seed, *options.overrides)
        minutes = (time.monotonic() - begin) / 60
        after = answer_all(merged, samples)
        gains.append(after.figures["gIoU"] - before.figures["gIoU"])
        print(f"seed {seed:3} {line(after)}  gain {gains[-1]:+.3f}  {minutes:.1f} min", flush=True)
    spread = statistics.stdev(gains) if len(gains) > 1 else float("nan")
    print(f"gain in gIoU {statistics.mean(gains):+.3f}, standard deviation between seeds {spread:.3f}")
    return 0


def measure_skill(options: argparse.Namespace) -> int:
    """Print what each seed makes of the skill and of the other kinds; 1 if that is less than wanted."""
    asked = skill_samples(options.skill, options.scenes or 400, HELD_OUT_SEED + TEST_SEED)
    others = make_samples(options.scenes or 400, HELD_OUT_SEED + TEST_SEED)
    blind = np.array([chance(sample) for sample in asked])
    before, others_before = (answer_all(shipped.policy_path(), samples) for samples in (asked, others))
    print(f"{options.skill}: {SKILLS[options.skill].meaning}; a blind choice {blind.mean():.3f}")
    print(f"before   {above(before, asked, blind)[0]}; other kinds {line(others_before)}", flush=True)
    rises, enough = [], True
    for seed in range(options.first, options.first + options.seeds):
        begin = time.monotonic()
        folder = options.out / f"{options.skill}_{seed}"
        _, merged = learn_skill(folder, options.skill, options.steps or SKILL_STEPS, seed, *options.overrides)
        minutes = (time.monotonic() - begin) / 60
        after, others_after = answer_all(merged, asked), answer_all(merged, others)
        shown, rise, low = above(after, asked, blind)
        compared = compare_runs(others_before.rows, others_after.rows)["figures"]
        changes = {name: compared[name] for name in ("giou", "n_acc")}
        rises.append(rise)
        enough &= low > LEAST and all(change["high"] >= 0 for change in changes.values())
        print(f"seed {seed:3} {shown}; other kinds {line(others_after)}", end=" ")
        for name, change in changes.items():
            print(f" {name} {change['difference']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})", end=" ")
        print(f" {minutes:.1f} min", flush=True)
    spread = statistics.stdev(rises) if len(rises) > 1 else float("nan")
    enough &= statistics.mean(rises) >= RISE
    print(f"above chance {statistics.mean(rises):+.3f}, standard deviation between seeds {spread:.3f}")
    print("learnt" if enough else "not learnt")
    return 0 if enough else 1


def above(answers: Evaluated, samples: Sequence[Sample], blind: np.ndarray) -> tuple[str, float, float]:
    """Compare right choices with a blind choice: as text, the mean difference, its 95 % interval's lower bound."""
    right = np.array(choices(answers.results, samples))
    [low], [high] = interval(bootstrap((right - blind)[:, None]) / len(right))
    rise = float((right - blind).mean())
    return f"right choices {right.mean():.3f}, above chance {rise:+.3f} ({low:+.3f} to {high:+.3f})", rise, float(low)


def answer_all(policy: Path, samples: list[Sample]) -> Evaluated:
    """Answer the samples greedily and evaluate the answers."""
    pipeline = SegZeroPipeline.from_pretrained(policy, shipped.segmenter_path(), policy_backend="transformers")
    return evaluate(pipeline, samples)


def line(answers: Evaluated) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in answers.figures.items())


if __name__ == "__main__":
    sys.exit(main())

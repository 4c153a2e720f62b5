"""Gain of the demo's training from several seeds, on the same held-out scenes.

Each seed draws other training scenes, another order and other samples. Training always starts from the shipped policy,
so that the spread of the gains is due to training alone.

    python -m benchmarks.learning [--seeds 3] [--steps 100] [--scenes 200] [--out FOLDER] [KEY=VALUE ...]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from segzero import shipped
from segzero.cli.demo_run import TEST_SEED, evaluate, learn
from segzero.pipeline import SegZeroPipeline
from segzero.tiny.questions import HELD_OUT_SEED, make_samples
from segzero.training.report import Evaluated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--out", type=Path, default=None, help="keep runs and merged policies here")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="further settings of the training")
    options = parser.parse_args()
    samples = make_samples(options.scenes, HELD_OUT_SEED + TEST_SEED)
    before = answer_all(shipped.policy_path(), samples)
    print(f"before   {line(before)}", flush=True)
    gains = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(options.first, options.first + options.seeds):
            begin = time.monotonic()
            _, merged = learn(
                (options.out or Path(temporary)) / f"seed_{seed}", options.steps, seed, *options.overrides
            )
            minutes = (time.monotonic() - begin) / 60
            after = answer_all(merged, samples)
            gains.append(after.figures["gIoU"] - before.figures["gIoU"])
            print(f"seed {seed:3} {line(after)}  gain {gains[-1]:+.3f}  {minutes:.1f} min", flush=True)
    spread = statistics.stdev(gains) if len(gains) > 1 else float("nan")
    print(f"gain in gIoU {statistics.mean(gains):+.3f}, standard deviation between seeds {spread:.3f}")


def answer_all(policy: Path, samples: list) -> Evaluated:
    """Answer the samples greedily and evaluate the answers."""
    pipeline = SegZeroPipeline.from_pretrained(policy, shipped.segmenter_path(), policy_backend="transformers")
    return evaluate(pipeline, samples)


def line(answers: Evaluated) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in answers.figures.items())


if __name__ == "__main__":
    main()

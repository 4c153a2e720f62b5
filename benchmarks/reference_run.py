"""Reference curve that `segzero train compare` shows: the metrics of the demo's training from three seeds.

    python -m benchmarks.reference_run [--seeds 3] [--steps 100] [--out FOLDER]

It writes reference_run.json there; segzero/tiny/reference_run.json is a copy.
"""

import argparse
from pathlib import Path

from segzero.cli.demo_run import learn
from segzero.io import write_atomically
from segzero.training.reference_curve import as_reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("reference"))
    options = parser.parse_args()
    runs = [
        learn(options.out / f"seed_{seed}", options.steps, seed, f"trainer.test_freq={options.steps // 10}")[0]
        for seed in range(options.seeds)
    ]
    name = f"the demo's training from {options.seeds} seeds"
    print(write_atomically(options.out / "reference_run.json", as_reference(name, runs)))


if __name__ == "__main__":
    main()

"""Offline search for a reward from a base that was weakened on purpose, and its winner against base and preset `mask`.

The base pays for paired boxes alone, for their IoU or for an IoU above one half: superfluous objects cost nothing,
missing ones neither, and nothing is earned where nothing is there. The search knows only the gates, the recorded
answers and its own trials. Afterwards the hand-written preset `mask` is trained from the same seeds, and all three are
compared on the same questions, which played no part in any choice.

    python -m benchmarks.reward_search [--weak threshold] [--seeds 3] [--minutes 30] [--out FOLDER] [...]

Further options go to the search. Stopped, the same command goes on.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from rewards.search.expressions import Genome, GenomeTerm, render
from segzero.io import write_atomically
from segzero.reward_search.comparison import RewardComparison, compare_finals
from segzero.reward_search.settings import NAME, SearchSettings
from segzero.reward_search.trials import TrialRunner

WEAK = {
    "linear": Genome.of(GenomeTerm("pair_overlap", weight=3.0), GenomeTerm("readable")),
    "threshold": Genome.of(GenomeTerm("pair_overlap", "threshold", 0.5, 3.0), GenomeTerm("readable")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("reward_search"))
    parser.add_argument("--weak", choices=WEAK, default="threshold", help="the base")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=30.0)
    options, further = parser.parse_known_args()
    out = options.out.absolute()
    weak = WEAK[options.weak]
    base = write_atomically(out / "weak.py", render(weak).encode())
    print(f"base: {weak.words}", flush=True)
    begin = time.monotonic()
    command = ["rewards", "search", "--offline", "--base", base, "--out", out / "search"]
    command += ["--seeds", options.seeds, "--minutes", options.minutes, *further]
    subprocess.run([sys.executable, "-m", "segzero", *map(str, command)], check=True)
    print(f"search: {(time.monotonic() - begin) / 60:.1f} min", flush=True)
    compared = against_mask(out / "search", options.seeds)
    show("winner against the weak base", json.loads((out / "search" / "winner.json").read_text())["comparison"])
    show("winner against the preset mask", {"figures": [vars(one) for one in compared.figures]})


def against_mask(out: Path, seeds: int) -> RewardComparison:
    """Train with the preset `mask` as the search trained its finals, and compare the winner with it."""
    settings = json.loads((out / NAME).read_text())
    runner = TrialRunner(out, SearchSettings(**{**settings, "overrides": tuple(settings["overrides"])}))
    steps, rows = runner.settings.final_steps, {"mask": [], "winner": []}
    for seed in range(1, seeds + 1):
        begin = time.monotonic()
        runner.train(out / "final" / f"mask-{seed}", "mask", steps, runner.settings.seed + seed, steps // 2)
        for name, found in rows.items():
            found.append(runner.evaluate(out / "final" / f"{name}-{seed}", steps))
        print(f"preset mask, seed {seed}: {time.monotonic() - begin:.0f} s", flush=True)
    return compare_finals(rows["mask"], rows["winner"])


def show(title: str, compared: dict) -> None:
    """Print the figures of a comparison."""
    print(title)
    for one in compared["figures"]:
        seeds = " ".join(f"{value:+.3f}" for value in one["by_seed"])
        print(
            f"  {one['name']:9} {one['base']:.3f} -> {one['winner']:.3f}  {one['difference']:+.3f} "
            f"({one['low']:+.3f} to {one['high']:+.3f})  by seed {seeds}",
            flush=True,
        )


if __name__ == "__main__":
    main()

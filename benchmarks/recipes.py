"""All recipes on the scenes under equal compute, from several seeds, on the same held-out questions.

Every recipe trains the shipped policy for the same number of steps of the same number of answers, about the same
scenes. What the tiny policy cannot take over is replaced for all alike: `model=tiny` has its own prompt and frame and
no KL loss, and the learning rate is 150 times the recipe's (1e-6 becomes 1.5e-4, 1e-5 of LoRA 1.5e-3). `seg_zero` is
left out, as its answers have a form that the tiny policy was never taught; `region_reasoner` has no rounds here.

    python -m benchmarks.recipes [RECIPE ...] [--seeds 3] [--steps 40] [--answers 128] [--out FOLDER]

Stopped, the same command goes on: what is finished is read from its files.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from segzero import shipped
from segzero.cli.demo_run import TEST_SEED, TRAIN_SEED, VALIDATION_SEED, evaluate
from segzero.data.parquet import to_parquet
from segzero.evaluation.figures import Table
from segzero.evaluation.scoring import Row, read_rows, write_rows
from segzero.pipeline import SegZeroPipeline
from segzero.reward_search.comparison import compare_finals
from segzero.tiny.questions import HELD_OUT_SEED, make_samples, make_training_samples
from segzero.training.config import compose

BASE = "vision_reasoner"  # the recipe that the others are compared with
RATE = 150  # the tiny policy's learning rate over that of the published systems
TESTED, VALIDATED = 400, 100  # questions
MORE = 3  # times the samples that the steps need: some recipes replace flat groups
LEFT_OUT = ("none", "seg_zero")


def main() -> None:
    known = sorted(file.stem for file in (shipped.config_dir() / "recipe").glob("*.yaml") if file.stem not in LEFT_OUT)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"all unless named: {', '.join(known)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--answers", type=int, default=128, help="of a step, whatever the recipe's n")
    parser.add_argument("--out", type=Path, default=Path("recipes"))
    options = parser.parse_args()
    recipes = options.recipes or known
    found: dict[str, list[list[Row]]] = {name: [] for name in dict.fromkeys([BASE, *recipes])}
    for seed in range(options.seeds):
        for name, rows in found.items():
            rows.append(run(options.out.absolute(), name, seed, options.steps, options.answers))
            print(f"{name:16} seed {seed}: gIoU {Table.from_rows(rows[-1]).values()['giou']:.3f}", flush=True)
    for line in table(found):
        print(line)


def run(out: Path, recipe: str, seed: int, steps: int, answers: int) -> list[Row]:
    """Train with a recipe and answer the held-out questions; a run that is finished is read."""
    folder = out / f"{recipe}-{seed}"
    if not (folder / "scores.jsonl").exists():
        begin = time.monotonic()
        segzero("train", *settings(out, recipe, seed, steps, answers), log=folder / "train.log")
        segzero(
            "merge", folder / "run" / f"global_step_{steps}", "--out", folder / "merged", "--dtype", "float32",
            log=folder / "merge.log",
        )  # fmt: skip
        print(f"{recipe:16} seed {seed}: trained in {time.monotonic() - begin:.0f} s", flush=True)
        pipeline = SegZeroPipeline.from_pretrained(
            folder / "merged", shipped.segmenter_path(), policy_backend="transformers"
        )
        write_rows(folder, evaluate(pipeline, make_samples(TESTED, HELD_OUT_SEED + TEST_SEED)).rows)
    return list(read_rows(folder))


def settings(out: Path, recipe: str, seed: int, steps: int, answers: int) -> list[str]:
    """Settings of a training."""
    published = compose("train", [f"recipe={recipe}", "model=qwen2_5_vl_7b", "hardware=gpu8_80g"]).actor_rollout_ref
    n, rate = published.rollout.n, published.actor.optim.lr
    data = write_data(out / "data", seed, MORE * steps * answers // n)
    return [
        f"recipe={recipe}",
        "model=tiny",
        "hardware=cpu",
        "data=scenes",
        f"data.train_files={data / 'train.parquet'}",
        f"data.val_files={data / 'val.parquet'}",
        f"data.train_batch_size={answers // n}",
        f"data.seed={seed}",
        f"actor_rollout_ref.actor.optim.lr={RATE * rate}",
        f"trainer.default_local_dir={out / f'{recipe}-{seed}' / 'run'}",
        f"trainer.total_training_steps={steps}",
        f"trainer.test_freq={steps // 2}",
        f"trainer.save_freq={steps}",
        "segzero.stall_minutes=10",
    ]


def write_data(folder: Path, seed: int, count: int) -> Path:
    """Write the samples of a seed, and those of its validation; returns their folder."""
    place = folder / f"{seed}-{count}"
    if not (place / "val.parquet").exists():
        to_parquet(make_training_samples(count, TRAIN_SEED + seed), place / "train.parquet")
        to_parquet(make_samples(VALIDATED, HELD_OUT_SEED + VALIDATION_SEED + seed), place / "val.parquet")
    return place


def segzero(*arguments: object, log: Path) -> None:
    """Run a command of SegZero; its output goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        command = [sys.executable, "-m", "segzero", *map(str, arguments)]
        done = subprocess.run(command, stdout=file, stderr=file, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    if done.returncode:
        sys.exit(f"segzero {arguments[0]} ended with {done.returncode}; see {log}")


def table(found: dict[str, list[list[Row]]]) -> list[str]:
    """Rows of a Markdown table, the best recipe first; gains are over the recipe BASE, with 95 % intervals."""
    lines = [f"| recipe | gIoU | by seed | over {BASE} | N-acc |", "|---|---|---|---|---|"]
    figures = {name: [Table.from_rows(rows).values() for rows in runs] for name, runs in found.items()}
    for name in sorted(found, key=lambda name: -float(np.mean([one["giou"] for one in figures[name]]))):
        gious, n_acc = [one["giou"] for one in figures[name]], np.mean([one["n_acc"] for one in figures[name]])
        gain = compare_finals(found[BASE], found[name]).figures[0]
        over = "" if name == BASE else f"{gain.difference:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
        by_seed = " ".join(f"{value:.3f}" for value in gious)
        lines.append(f"| `{name}` | {np.mean(gious):.3f} | {by_seed} | {over} | {n_acc:.3f} |")
    return lines


if __name__ == "__main__":
    main()

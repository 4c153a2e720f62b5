"""Short trainings with a candidate: `segzero train`, `segzero merge` and `segzero eval`, each as a process of its own.

A trial that was begun goes on from its last checkpoint, and what is finished is read from its files:

trials/01-03/run/metrics.jsonl    rewards, and the validation on questions that choose among trials
trials/01-03/trial.json           the seconds that it took, and in how many calls
trials/01-03/train.log            the output
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segzero.errors import UserError, one_line
from segzero.evaluation.scoring import Row, read_rows
from segzero.io import write_json
from segzero.reward_search.settings import SearchSettings
from segzero.training import checkpoints, metrics_log

START_SECONDS, STEP_SECONDS, FINAL_SECONDS = 35.0, 2.5, 40.0  # until something is measured: two cores, shipped models
RISE, FALL = 0.03, 0.02  # of reward, as a share of its size, and of the held-out score: less is chance
VALIDATION = ("val/giou", "val/n_acc")


class TrialFailed(Exception):
    """The training with a candidate ended with an error, which the message holds."""


@dataclass(frozen=True)
class TrainingTrial:
    """A finished trial: the reward by step, and held-out figures by step."""

    name: str
    steps: int
    rewards: tuple[tuple[float, float], ...]  # step, mean reward of the sampled answers
    giou: tuple[tuple[float, float], ...]  # step, validation; step 0 is before the training
    n_acc: tuple[tuple[float, float], ...]
    seconds: float
    calls: int = 1  # of `segzero train`, each of which starts processes anew

    @property
    def held_out(self) -> list[tuple[float, float]]:
        """The held-out score by step: the mean of gIoU and N-acc, or gIoU where every question has a target."""
        n_acc = dict(self.n_acc)
        return [(step, (value + n_acc[step]) / 2 if step in n_acc else value) for step, value in self.giou]

    @property
    def score(self) -> float:
        """Mean of the held-out score over the last two validations, which vary by chance; 0 before any."""
        values = [value for step, value in self.held_out if step > 0][-2:]
        return float(np.mean(values)) if values else 0.0

    @property
    def hacking(self) -> str:
        """A finding if the reward rose while the held-out score fell; else empty."""
        if len(self.rewards) < 4 or len(self.held_out) < 2:
            return ""
        values = [value for _, value in self.rewards]
        quarter = max(2, len(values) // 4)
        before, after = float(np.mean(values[:quarter])), float(np.mean(values[-quarter:]))
        first, last = self.held_out[0][1], self.held_out[-1][1]
        if after - before > RISE * max(1.0, abs(before)) and first - last > FALL:
            return (
                f"reward hacking: over {self.steps} steps the reward rose from {before:.2f} to {after:.2f}, "
                f"and the held-out score fell from {first:.3f} to {last:.3f}"
            )
        return ""


@dataclass(frozen=True)
class TrialRunner:
    """Everything that the trainings of a search share."""

    out: Path
    settings: SearchSettings

    @property
    def data(self) -> Path:
        """Folder of train.parquet and val.parquet."""
        return self.out / "data"

    @property
    def test(self) -> Path:
        """Folder of the questions that only the last comparison sees."""
        return self.out / "test"

    def train(self, folder: Path, reward: str, steps: int, seed: int, validate_every: int) -> TrainingTrial:
        """Train the policy for so many steps with a preset, or a candidate's file; goes on where it stopped."""
        run, known = folder / "run", folder / "trial.json"
        if not _reached(run, steps):
            begin = time.monotonic()
            arguments = self._train_arguments(run, reward, steps, seed, validate_every)
            self._call(folder / "train.log", "train", *arguments)
            seconds, calls = _spent(known)
            write_json(known, {"seconds": round(seconds + time.monotonic() - begin, 1), "calls": calls + 1})
        return read_trial(folder, steps)

    def evaluate(self, folder: Path, steps: int) -> list[Row]:
        """Merge the last checkpoint of a training, and score its answers to the test questions."""
        merged, out = folder / "merged", folder / "evaluation"
        if not (out / "own" / "scores.jsonl").is_file():
            if not merged.is_dir():
                checkpoint = checkpoints.folder(folder / "run", steps)
                self._call(folder / "merge.log", "merge", checkpoint, "--out", merged, "--dtype", "float32")
            self._call(
                folder / "eval.log", "eval", "--benchmark", "own", "--data", self.test, "--policy", merged,
                "--segmenter", self.settings.segmenter, "--out", out, "--cache", folder / "cache",
            )  # fmt: skip
        return list(read_rows(out / "own"))

    def _train_arguments(self, run: Path, reward: str, steps: int, seed: int, validate_every: int) -> list[str]:
        settings = self.settings
        chosen = ["reward=candidate", f"reward.path={reward}"] if reward.endswith(".py") else [f"reward={reward}"]
        return [
            *chosen,
            f"actor_rollout_ref.model.path={settings.policy}",
            f"segzero.segmenter.path={settings.segmenter}",
            f"data.train_batch_size={settings.batch}",
            f"data.seed={seed}",
            f"trainer.default_local_dir={run}",
            f"trainer.total_training_steps={steps}",
            f"trainer.total_epochs={1 + steps * settings.batch}",
            f"trainer.test_freq={validate_every}",
            f"trainer.save_freq={steps}",
            "actor_rollout_ref.actor.optim.lr_scheduler_type=constant",  # a second round goes on as it would have
            "segzero.keep_last=1",
            *settings.overrides,
        ]

    def _call(self, log: Path, *arguments: object) -> None:
        """Run a `segzero` command; its output goes to a file, and if it fails its last line into the error."""
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "segzero", *map(str, arguments)]
        with log.open("ab") as output:
            done = subprocess.run(
                command, env=os.environ | {"DATA": str(self.data)}, stdout=output, stderr=subprocess.STDOUT
            )
        if done.returncode:
            raise TrialFailed(f"`segzero {arguments[0]}` ended with code {done.returncode}: {_complaint(log)} ({log})")


def read_trial(folder: Path, steps: int) -> TrainingTrial:
    """Read the numbers of a trial from its run."""
    rows = metrics_log.read_rows(folder / "run" / metrics_log.NAME)

    def column(name: str) -> tuple[tuple[float, float], ...]:
        found = {float(row["step"]): float(row["data"][name]) for row in rows if name in row["data"]}
        return tuple(sorted((step, value) for step, value in found.items() if step <= steps))

    giou, n_acc = (column(name) for name in VALIDATION)
    return TrainingTrial(folder.name, steps, column("reward/mean"), giou, n_acc, *_spent(folder / "trial.json"))


def _reached(run: Path, steps: int) -> bool:
    """Whether the run has finished so many steps, validated and saved."""
    rows = metrics_log.read_rows(run / metrics_log.NAME)
    validated = any(row["step"] >= steps and VALIDATION[0] in row["data"] for row in rows)
    return validated and bool(checkpoints.steps(run)) and checkpoints.steps(run)[-1] >= steps


def _spent(file: Path) -> tuple[float, int]:
    """Seconds that a trial took so far, and the calls; nothing before the first has ended."""
    try:
        row = json.loads(file.read_bytes())
        return float(row["seconds"]), int(row["calls"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0, 0


def _complaint(log: Path) -> str:
    """The line of an output that says what was wrong."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if line.startswith("segzero: ")]
    return one_line((named or lines or ["no output"])[-1])


def step_seconds(trials: Sequence[TrainingTrial], default: float = STEP_SECONDS) -> float:
    """Seconds of a step without the start of a training, from the trials there are; the default before the first."""
    known = [(trial.seconds - START_SECONDS * trial.calls) / trial.steps for trial in trials]
    known = [seconds for seconds in known if seconds > 0]
    return float(np.median(known)) if known else default


def refuse_base(error: TrialFailed) -> UserError:
    """Make the error of a search whose base can't be trained with: without it there is nothing to compare with."""
    return UserError(f"the base reward can't be trained with: {error}")

"""Whole runs for the tests: `segzero train` as a user types it, small, in a process group of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

COMMAND = [str(Path(sys.executable).with_name("segzero")), "train"]


def start(data: Path, run: Path, *overrides: str) -> subprocess.Popen:
    """Train on `data`'s train.parquet and val.parquet."""
    fixed = [
        f"data.train_files={data / 'train.parquet'}",
        f"data.val_files={data / 'val.parquet'}",
        f"trainer.default_local_dir={run}",
        "data.train_batch_size=4",
        "actor_rollout_ref.rollout.n=4",
        "reward=mask",
        "trainer.save_freq=-1",
        "trainer.test_freq=-1",
        "trainer.val_before_train=false",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
    return subprocess.Popen(
        [*COMMAND, *fixed, *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def wait(process: subprocess.Popen, seconds: float = 600) -> str:
    """All that it said."""
    try:
        said, _ = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            kill(process)
    return said


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def complaint(said: str) -> str:
    """The one line with which `segzero` ends a run."""
    [line] = [line for line in said.splitlines() if line.startswith("segzero:")]
    assert "Traceback" not in said, said[-3000:]
    return line


def logged(run: Path) -> list[dict]:
    """The rows of its metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

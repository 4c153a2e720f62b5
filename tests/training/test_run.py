"""A whole run on the CPU: train, be killed, resume, merge, answer."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segzero.data.sample import to_parquet
from segzero.tiny.questions import HELD_OUT_SEED, make_samples

pytestmark = pytest.mark.training

CODE = """
import sys
from segzero.errors import UserError
from segzero.training.launch import train
try:
    train("train", sys.argv[1:])
except UserError as error:
    sys.exit(f"segzero: {error}")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    to_parquet(make_samples(36, 11), folder / "train.parquet")
    to_parquet(make_samples(9, HELD_OUT_SEED + 11), folder / "val.parquet")
    return folder


def start(folder: Path, *overrides: str) -> subprocess.Popen:
    fixed = [
        f"data.train_files={folder / 'train.parquet'}",
        f"data.val_files={folder / 'val.parquet'}",
        f"trainer.default_local_dir={folder / 'run'}",
        "data.train_batch_size=4",
        "actor_rollout_ref.rollout.n=4",
        "reward=mask",
        "trainer.save_freq=1",
        "trainer.test_freq=-1",
        "trainer.val_before_train=false",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *fixed, *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def wait(process: subprocess.Popen, seconds: float = 600) -> str:
    try:
        said, _ = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return said


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def test_train_be_killed_resume_merge(folder):
    first = start(folder, "trainer.total_training_steps=50")
    deadline = time.monotonic() + 600
    while not (folder / "run" / "global_step_2").exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    kept = sorted(int(path.name.split("_")[-1]) for path in (folder / "run").glob("global_step_*"))
    assert kept and kept[-1] >= 2

    last = kept[-1] + 2
    said = wait(start(folder, f"trainer.total_training_steps={last}", f"trainer.test_freq={last}"))
    assert f"resuming from {folder / 'run' / f'global_step_{kept[-1]}'}" in said, said[-3000:]
    steps = [row["step"] for row in logged(folder)]
    assert steps == [kept[-1] + 1, last], said[-3000:]
    final = logged(folder)[-1]["data"]
    assert 0 <= final["val/giou"] <= 1
    assert abs(final["actor/ppo_kl"]) < 1e-3  # vLLM and the trainer agree on the probabilities

    from transformers import AutoModelForImageTextToText

    from segzero.training.merge import merge

    out = merge(folder / "run" / f"global_step_{last}", folder / "merged", dtype="float32")
    AutoModelForImageTextToText.from_pretrained(out)
    assert json.loads((out / "segzero.json").read_text())["prompt"] == "multi"


def test_a_reward_that_raises_ends_the_run_in_a_line(folder, tmp_path, monkeypatch):
    (tmp_path / "broken_reward.py").write_text("def reward(answer, truth):\n    return 1 / 0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = start(
        folder,
        "reward=custom",
        "reward.name=broken_reward.reward",
        f"trainer.default_local_dir={tmp_path / 'run'}",
        "segzero.segmenter.path=null",
    )
    said = wait(process)
    assert process.returncode == 1
    [line] = [line for line in said.splitlines() if line.startswith("segzero:")]
    assert "ZeroDivisionError" in line and "3 failures, at samples tiny-11-" in line

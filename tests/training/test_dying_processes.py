"""The run ends soon and says why, whichever of its processes dies."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers.launching import complaint, start, wait

pytestmark = pytest.mark.training
SOON = 60  # s


@pytest.mark.parametrize(
    "title, name",
    [
        ("ray::GroupServer", "rollout replica 0"),
        ("VLLM::EngineCore", "rollout replica 0"),
        ("ray::WorkerDict", "trainer 0"),
        ("ray::SegmenterActor", "segmenter"),
    ],
)
def test_a_death_ends_the_run(scenes, tmp_path, title, name):
    process = _in_its_third_step(scenes, tmp_path / "run")
    [victim] = [child for child in psutil.Process(process.pid).children(recursive=True) if _titled(child, title)]
    os.kill(victim.pid, signal.SIGKILL)
    line = complaint(wait(process, SOON))
    assert process.returncode == 2
    assert name in line or "died" in line, line


@pytest.mark.parametrize("title", ["VLLM::EngineCore", "ray::SegmenterActor"])
def test_a_death_while_the_trainer_works_ends_the_run(scenes, tmp_path, title):
    """No rollout is running then; the trainer would wait for ever for a dead replica to take its weights."""
    process = _in_its_third_step(scenes, tmp_path / "run")
    run = psutil.Process(process.pid)
    [victim] = [child for child in run.children(recursive=True) if _titled(child, title)]
    until = time.monotonic() + SOON
    while not any(
        _titled(child, "ray::WorkerDict.actor_rollout_update_actor") for child in run.children(recursive=True)
    ):
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(victim.pid, signal.SIGKILL)
    line = complaint(wait(process, SOON))
    assert process.returncode == 2
    assert "died" in line, line


def _in_its_third_step(scenes: Path, run: Path) -> subprocess.Popen:
    process = start(scenes, run, "trainer.total_training_steps=500")
    heard: list[str] = []
    assert process.stdout is not None
    while not (heard and heard[-1].startswith("step 2/")):
        line = process.stdout.readline()
        assert line, "".join(heard)
        heard.append(line)
    return process


def _titled(process: psutil.Process, title: str) -> bool:
    try:
        return any(part.startswith(title) for part in process.cmdline()[:1])
    except psutil.Error:
        return False

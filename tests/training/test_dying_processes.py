"""The run ends soon and says why, whichever of its processes dies.

A run that holds something else may end so: test_breaking_batches.py kills the server of the rollouts.
"""

import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.launching import SOON, kill_part, parts, start, wait_for_step

pytestmark = pytest.mark.training


@pytest.mark.parametrize("title, name", [("ray::WorkerDict", "trainer 0"), ("ray::SegmenterActor", "segmenter")])
def test_a_death_ends_the_run(scenes, tmp_path, title, name):
    process = _in_its_third_step(scenes, tmp_path / "run")
    [victim] = parts(process, title)
    line = kill_part(process, victim)
    assert name in line or "died" in line, line


@pytest.mark.parametrize("title", ["VLLM::EngineCore", "ray::SegmenterActor"])
def test_a_death_while_the_trainer_works_ends_the_run(scenes, tmp_path, title):
    """No rollout is running then; the trainer would wait for ever for a dead replica to take its weights."""
    process = _in_its_third_step(scenes, tmp_path / "run")
    [victim] = parts(process, title)
    until = time.monotonic() + SOON
    while not parts(process, "ray::WorkerDict.actor_rollout_update_actor"):
        assert time.monotonic() < until
        time.sleep(0.02)
    line = kill_part(process, victim)
    assert "died" in line, line


def _in_its_third_step(scenes: Path, run: Path) -> subprocess.Popen:
    process = start(scenes, run, "trainer.total_training_steps=500")
    wait_for_step(process, 2)
    return process

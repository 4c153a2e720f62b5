"""Whichever process of a run dies, the run ends soon and says why."""

import os
import signal
import time

import psutil
import pytest
from launching import complaint, start, wait

pytestmark = pytest.mark.training
SOON = 60  # s


@pytest.mark.parametrize(
    "title, name",
    [("ray::GroupServer", "rollout replica 0"), ("ray::WorkerDict", "trainer 0"), ("ray::SegmenterActor", "segmenter")],
)
def test_a_death_ends_the_run(scenes, tmp_path, title, name):
    process = start(scenes, tmp_path / "run", "trainer.total_training_steps=500")
    heard = []
    assert process.stdout is not None
    while not (heard and heard[-1].startswith("step 2/")):
        line = process.stdout.readline()
        assert line, "".join(heard)
        heard.append(line)
    [victim] = [child for child in psutil.Process(process.pid).children(recursive=True) if _titled(child, title)]
    os.kill(victim.pid, signal.SIGKILL)
    died = time.monotonic()
    line = complaint(wait(process, 3 * SOON))
    assert time.monotonic() - died < SOON
    assert process.returncode == 2
    assert name in line or "died" in line, line


def _titled(process: psutil.Process, title: str) -> bool:
    try:
        return any(part.startswith(title) for part in process.cmdline()[:1])
    except psutil.Error:
        return False

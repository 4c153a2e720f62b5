"""A limit for runs that stand still, on processes that do nothing else."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from segzero.training.config import compose
from segzero.training.stall import STACKS, StallLimit, offer_stacks, read_stacks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files in memory and /proc are Linux's")

HANGS = """
    import subprocess, sys, threading
    from pathlib import Path
    from segzero.training.stall import StallLimit, offer_stacks

    def waits_for_ever():
        offer_stacks()
        print("ready", flush=True)
        threading.Event().wait()

    if sys.argv[1] == "child":
        waits_for_ever()
    child = subprocess.Popen([sys.executable, __file__, "child"], stdout=subprocess.PIPE)
    silent = subprocess.Popen(["sleep", "600"])
    print(child.pid, silent.pid, flush=True)
    child.stdout.readline()
    with StallLimit(Path(sys.argv[2]), 0.05):
        child.wait()
"""


@pytest.fixture
def hanging(tmp_path):
    script = tmp_path / "hangs.py"
    script.write_text(textwrap.dedent(HANGS))
    return [sys.executable, str(script)]


def test_a_run_that_stands_still_ends_with_the_stacks_of_its_processes(hanging, tmp_path):
    run = tmp_path / "run"
    process = subprocess.run([*hanging, "parent", str(run)], capture_output=True, text=True, timeout=60)
    assert process.returncode == 2
    [line] = process.stderr.splitlines()
    assert line.startswith("segzero: nothing has moved for 0.05 minutes (segzero.stall_minutes)"), line
    assert str(run / STACKS) in line
    child, silent = map(int, process.stdout.split()[:2])
    stacks = (run / STACKS).read_text()
    assert "in waits_for_ever" in stacks.split(f"== {child} ")[1]
    assert "(no Python stacks)" in stacks.split(f"== {silent} ")[1]  # the signal would have ended it
    deadline = time.monotonic() + 30  # a killed process may still wait for a core
    while any(_lives(pid) for pid in (child, silent)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_stopped_process_does_not_answer(hanging):
    with subprocess.Popen([*hanging, "child"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            assert "in waits_for_ever" in read_stacks(process.pid)
            os.kill(process.pid, signal.SIGSTOP)
            assert read_stacks(process.pid) == "(no answer; its state is T (stopped))\n"
        finally:
            process.kill()
    assert read_stacks(process.pid) == "(gone, or not readable)\n"


def test_a_run_that_moves_goes_on(tmp_path):
    looks = []

    def seconds_still() -> float:
        looks.append(1)
        return 0.05  # below the limit of 0.06 seconds

    with StallLimit(tmp_path, 0.001, seconds_still):
        until = time.monotonic() + 30
        while len(looks) < 3 and time.monotonic() < until:
            time.sleep(0.01)
    assert len(looks) >= 3
    assert not (tmp_path / STACKS).exists()


def test_offered_stacks_are_of_this_process():
    offer_stacks()
    assert "test_offered_stacks_are_of_this_process" in read_stacks(os.getpid())


def test_the_default_is_far_above_a_step():
    assert compose("train", []).segzero.stall_minutes == 60

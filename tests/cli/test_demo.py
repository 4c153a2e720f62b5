"""The demo: ask, train, merge, ask again, report; benchmarks/learning.py measures the gain of its 100 steps."""

import json
import re
import subprocess
import sys

import pytest

from tests.helpers.launching import stacks_of_stall


@pytest.mark.training
def test_ask_train_merge_ask_again(tmp_path):
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "segzero", "demo", "--steps", "30", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + stacks_of_stall(out / "run")
    found = re.search(r"gIoU +(0\.\d+) +(0\.\d+) +([+-]0\.\d+)", done.stdout)
    assert found, done.stdout[-3000:]
    assert float(found[3]) > 0.03, found[0]  # most is learnt within twenty steps: benchmarks/README.md
    page = (out / "report.html").read_text()
    assert found[1] in page and found[2] in page and page.count("<svg") == 2
    assert json.loads((out / "merged" / "segzero.json").read_text())["prompt"] == "multi"


def test_a_second_demo_into_the_same_folder_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-m", "segzero", "demo", "--out", str(tmp_path), "--scenes", "1", "--steps", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "run is there already" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "demo.png").exists()


def test_an_unknown_skill_is_refused_before_anything_is_loaded(tmp_path):
    command = [sys.executable, "-m", "segzero", "demo", "--out", str(tmp_path / "demo"), "--skill", "warmths"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "did you mean 'warmth'" in done.stderr and "loading" not in done.stdout
    assert not (tmp_path / "demo").exists()

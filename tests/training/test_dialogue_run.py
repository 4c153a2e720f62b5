"""A run on dialogues: prompts of half of the later rounds show the policy's own answers to the earlier ones, and those
of a teacher the attempts of the group.

Its engine hangs in the end, which kills nobody, and the run ends for standing still.
"""

import json
import signal
import time

import psutil
import pytest

from segzero.data.parquet import to_parquet
from segzero.evaluation.frontier import read_records
from segzero.tiny.dialogues import make_dialogues
from segzero.tiny.questions import HELD_OUT_SEED
from tests.helpers.launching import complaint, logged, parts, start, wait, wait_for_step

pytestmark = pytest.mark.training


def test_two_steps_on_dialogues(tmp_path):
    to_parquet(make_dialogues(8, 11), tmp_path / "train.parquet")
    to_parquet(make_dialogues(2, HELD_OUT_SEED + 11), tmp_path / "val.parquet")
    run = tmp_path / "run"
    asked = ["data=dialogues", "reward=dialogue", "data.own_history=0.5", "data.train_batch_size=8", "segzero.record=8"]
    asked += ["segzero.self_distillation.weight=0.1", "segzero.self_distillation.attempts=3"]
    process = start(
        tmp_path, run, *asked, "trainer.total_training_steps=500", "trainer.test_freq=2", "segzero.stall_minutes=1"
    )
    wait_for_step(process, 2)
    [engine] = parts(process, "VLLM::EngineCore")
    engine.send_signal(signal.SIGSTOP)
    line = complaint(wait(process, 180))
    assert process.returncode == 2
    assert "nothing has moved for 1 minutes" in line, line
    stalled = (run / "stalled.txt").read_text()
    assert f"== {engine.pid} " in stalled and "no answer; its state is T (stopped)" in stalled
    assert "in wait_for_change" in stalled  # the trainer waits for answers
    until = time.monotonic() + 10
    while engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.1)
    rows = [row["data"] for row in logged(run)[:2]]
    assert all("reward/cites/mean" in data for data in rows)
    lines = (run / "rollouts" / "rollouts.jsonl").read_text().splitlines()
    recorded = [row for row in map(json.loads, lines) if row["step"] <= 2]
    assert len(recorded) == 16
    ious = read_records(run)
    assert all(len(ious[row["sample"]]) > 1 for row in recorded)
    later = [row for row in recorded if "notes" in row]
    own = [row for row in later if row["history"] == "own"]
    assert 0 < len(own) < len(later) < len(recorded)
    assert all("<box>" in row["question"] and row["notes"].startswith("Earlier in this dialogue:") for row in own)
    for data in rows:
        assert 0 <= data["dialogue/own_history"] + data["dialogue/fallbacks"] <= 1
        assert 0 < data["distillation/jsd"] < 0.6931 and 2 < data["distillation/attempts"] <= 3
        assert abs(data["actor/ppo_kl"]) < 1e-3  # vLLM wrote after the very prompts that the trainer learns from
    assert "val/giou" in rows[-1]

"""A run on dialogues: prompts of half of the later rounds show the policy's own answers to the earlier ones."""

import json

import pytest

from segzero.data.parquet import to_parquet
from segzero.tiny.dialogues import make_dialogues
from segzero.tiny.questions import HELD_OUT_SEED
from tests.helpers.launching import kill_part, logged, parts, start, wait_for_step

pytestmark = pytest.mark.training


def test_two_steps_on_dialogues(tmp_path):
    """In the third step vLLM's engine dies, which ends the run."""
    to_parquet(make_dialogues(8, 11), tmp_path / "train.parquet")
    to_parquet(make_dialogues(2, HELD_OUT_SEED + 11), tmp_path / "val.parquet")
    run = tmp_path / "run"
    asked = ["data=dialogues", "reward=dialogue", "data.own_history=0.5", "data.train_batch_size=8", "segzero.record=8"]
    process = start(tmp_path, run, *asked, "trainer.total_training_steps=500", "trainer.test_freq=2")
    wait_for_step(process, 2)
    [engine] = parts(process, "VLLM::EngineCore")
    line = kill_part(process, engine)
    assert "rollout replica 0" in line or "died" in line, line
    rows = [row["data"] for row in logged(run)[:2]]
    assert all("reward/cites/mean" in data for data in rows)
    lines = (run / "rollouts" / "rollouts.jsonl").read_text().splitlines()
    recorded = [row for row in map(json.loads, lines) if row["step"] <= 2]
    assert len(recorded) == 16
    later = [row for row in recorded if "notes" in row]
    own = [row for row in later if row["history"] == "own"]
    assert 0 < len(own) < len(later) < len(recorded)
    assert all("<box>" in row["question"] and row["notes"].startswith("Earlier in this dialogue:") for row in own)
    for data in rows:
        assert 0 <= data["dialogue/own_history"] + data["dialogue/fallbacks"] <= 1
        assert abs(data["actor/ppo_kl"]) < 1e-3  # vLLM wrote after the very prompts that the trainer learns from
    assert "val/giou" in rows[-1]

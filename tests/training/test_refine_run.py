"""A run on questions, on masks to judge, and on those that the policy has just drawn.

The replica and the trainer see the same marked pictures.
"""

import json
from itertools import islice

import pytest

from segzero.data.parquet import to_parquet
from segzero.refinement.corruption import CorruptionCounts, judging_samples
from segzero.tiny.questions import HELD_OUT_SEED, make_samples, make_shared_samples
from tests.helpers.launching import logged, start, wait

pytestmark = pytest.mark.training


def test_two_steps_of_judging_masks(tmp_path):
    questions = list(islice(make_shared_samples(2, 19), 12))
    plain = [place % 2 == 0 for place in range(len(questions))]
    to_parquet(judging_samples(questions, (0,), CorruptionCounts(), plain=plain), tmp_path / "train.parquet")
    to_parquet(make_samples(4, HELD_OUT_SEED + 19), tmp_path / "val.parquet")
    run = tmp_path / "run"
    asked = ["reward=refine", "data.train_batch_size=8", "segzero.record=8", "segzero.panels_every=1"]
    asked += ["segzero.own_masks=0.6", "segzero.looks=2"]
    process = start(tmp_path, run, *asked, "trainer.total_training_steps=2")
    output = wait(process)
    assert process.returncode == 0, output[-3000:]
    rows = [row["data"] for row in logged(run)]
    for row in rows:
        assert 0 < row["reward/decision/mean"] <= 1 and 0 < row["reward/gain/mean"] <= 1
        assert abs(row["actor/ppo_kl"]) < 1e-3  # otherwise they would have looked at different pictures
    recorded = [json.loads(line) for line in (run / "rollouts" / "rollouts.jsonl").read_text().splitlines()]
    judged = [row for row in recorded if row["sample"].endswith(("-good", "-bad"))]
    looks = [row for row in recorded if "-look" in row["sample"]]
    assert judged and 0 < len(looks) < len(recorded) - len(judged) < len(recorded) == 16
    assert sum(row["own_masks/groups"] for row in rows if "own_masks/groups" in row) == len(looks)
    for row in rows:
        assert all(0 <= row.get(f"own_masks/{name}", 0) <= 1 for name in ("kept", "iou_before", "iou_after"))
    assert any(row.get("own_masks/iou_before", 0) > 0 for row in rows)

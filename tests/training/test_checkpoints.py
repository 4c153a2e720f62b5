"""Checkpoints are whole, or passed over."""

import json

import pytest

from segzero.errors import UserError
from segzero.training import checkpoints

SHARD = "actor/model_world_size_2_rank_1.pt"


def save(run, step: int, content: bytes = b"weights") -> None:
    place = checkpoints.unfinished(run, step)
    (place / "actor").mkdir()
    for rank in range(2):
        (place / "actor" / f"model_world_size_2_rank_{rank}.pt").write_bytes(content)
    (place / "actor" / "fsdp_config.json").write_text(json.dumps({"world_size": 2}))
    checkpoints.finish(run, step, {"ranks": {}})


def test_the_newest_is_found(tmp_path):
    save(tmp_path, 5)
    save(tmp_path, 10)
    found, passed = checkpoints.latest_whole(tmp_path)
    assert found == tmp_path / "global_step_10"
    assert passed == []
    assert (tmp_path / checkpoints.TRACKER).read_text() == "10"
    assert checkpoints.world_size(found) == 2
    assert checkpoints.read_state(found) == {"ranks": {}}


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda c: (c / SHARD).write_bytes(b"weighty"), "has changed"),
        (lambda c: (c / SHARD).write_bytes(b"weigh"), "5 bytes instead of 7"),
        (lambda c: (c / SHARD).unlink(), "is missing"),
        (lambda c: (c / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda c: (c / "manifest.json").write_text("{"), "can't be read"),
    ],
)
def test_a_damaged_one_is_passed_over_with_a_reason(tmp_path, harm, said):
    save(tmp_path, 5)
    save(tmp_path, 10)
    harm(tmp_path / "global_step_10")
    found, [line] = checkpoints.latest_whole(tmp_path)
    assert found == tmp_path / "global_step_5"
    assert said in line


def test_a_kill_while_saving_leaves_the_earlier_ones(tmp_path):
    save(tmp_path, 5)
    place = checkpoints.unfinished(tmp_path, 10)
    (place / "model.pt").write_bytes(b"half")
    assert checkpoints.steps(tmp_path) == [5]
    assert checkpoints.latest_whole(tmp_path)[0] == tmp_path / "global_step_5"
    save(tmp_path, 10)  # the same step again, after the restart
    assert checkpoints.steps(tmp_path) == [5, 10]


def test_old_ones_go_but_the_best_stays(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
    assert checkpoints.prune(tmp_path, 2, keep=[1]) == [2, 3]
    assert checkpoints.steps(tmp_path) == [1, 4, 5]
    assert checkpoints.prune(tmp_path, 0) == []


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def refuse(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    with pytest.raises(UserError, match="No space left on device; nothing was left half-written"):
        checkpoints.write_json(tmp_path / "best.json", {})
    assert list(tmp_path.iterdir()) == []

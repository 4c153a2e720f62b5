"""Checkpoints are whole, or skipped."""

import json
from pathlib import Path

import pytest

from segzero.errors import UserError
from segzero.io import write_json
from segzero.training import checkpoints

SHARD = "actor/model_world_size_2_rank_1.pt"


def save(run, step: int, content: bytes = b"weights") -> None:
    place = checkpoints.new_unfinished(run, step)
    (place / "actor").mkdir()
    for rank in range(2):
        (place / "actor" / f"model_world_size_2_rank_{rank}.pt").write_bytes(content)
    (place / "actor" / "fsdp_config.json").write_text(json.dumps({"world_size": 2}))
    checkpoints.finish(run, step, {"ranks": {}})


def test_the_newest_checkpoint_is_resumed(tmp_path):
    save(tmp_path, 5)
    save(tmp_path, 10)
    found, passed = checkpoints.latest_whole(tmp_path)
    assert found == tmp_path / "global_step_10"
    assert passed == []
    assert (tmp_path / checkpoints.TRACKER).read_text() == "10"
    assert checkpoints.world_size(found) == 2
    assert checkpoints.read_state(found) == {"ranks": {}}


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda c: (c / SHARD).write_bytes(b"weighty"), "has changed"),
        (lambda c: (c / SHARD).write_bytes(b"weigh"), "5 bytes instead of 7"),
        (lambda c: (c / SHARD).unlink(), "is missing"),
        (lambda c: (c / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda c: (c / "manifest.json").write_text("{"), "can't be read"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_a_reason(tmp_path, harm, message):
    save(tmp_path, 5)
    save(tmp_path, 10)
    harm(tmp_path / "global_step_10")
    found, [line] = checkpoints.latest_whole(tmp_path)
    assert found == tmp_path / "global_step_5"
    assert message in line


def test_a_kill_while_saving_leaves_the_earlier_ones(tmp_path):
    save(tmp_path, 5)
    place = checkpoints.new_unfinished(tmp_path, 10)
    (place / "model.pt").write_bytes(b"half")
    assert checkpoints.steps(tmp_path) == [5]
    assert checkpoints.latest_whole(tmp_path)[0] == tmp_path / "global_step_5"
    save(tmp_path, 10)  # the same step again, after the restart
    assert checkpoints.steps(tmp_path) == [5, 10]


def test_old_checkpoints_are_removed_but_the_best_stays(tmp_path):
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
        write_json(tmp_path / "best.json", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["model", "optim", "extra_state"])
def test_shards_that_other_nodes_kept_are_missing(tmp_path, part):
    save(tmp_path, 5)
    place = checkpoints.new_unfinished(tmp_path, 10)
    (place / "actor").mkdir()
    (place / "actor" / "fsdp_config.json").write_text(json.dumps({"world_size": 8}))
    for each in ("model", "optim", "extra_state"):
        for rank in range(4 if each == part else 8):
            (place / "actor" / f"{each}_world_size_8_rank_{rank}.pt").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        checkpoints.finish(tmp_path, 10, {})
    line = str(caught.value)
    assert f"actor/{part}_world_size_8_rank_4.pt" in line and "and 1 more did not arrive" in line
    assert "The nodes don't share that folder" in line
    assert not place.exists()
    assert checkpoints.latest_whole(tmp_path) == (tmp_path / "global_step_5", [])


def test_a_finished_checkpoint_without_all_shards_is_skipped(tmp_path):
    """Earlier versions finished a checkpoint with only the files of the first node."""
    save(tmp_path, 5)
    save(tmp_path, 10)
    (tmp_path / "global_step_10" / SHARD).unlink()
    listed = tmp_path / "global_step_10" / "manifest.json"
    content = json.loads(listed.read_text())
    del content["files"][SHARD]
    listed.write_text(json.dumps(content))
    found, [line] = checkpoints.latest_whole(tmp_path)
    assert found == tmp_path / "global_step_5"
    assert f"({SHARD} is missing" in line


def test_a_step_saved_again_replaces_the_older_one(tmp_path):
    save(tmp_path, 5, b"older")
    save(tmp_path, 5, b"newer")
    assert (tmp_path / "global_step_5" / SHARD).read_bytes() == b"newer"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["global_step_5", checkpoints.TRACKER]


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_kill_while_one_is_replaced_leaves_a_whole_one(tmp_path, monkeypatch, done):
    """The process ends once none, one or both of the names are changed."""
    save(tmp_path, 5, b"older")
    changes = []
    rename, sync = Path.rename, checkpoints.sync

    def rename_or_die(path, target):
        if len(changes) == done:
            raise KeyboardInterrupt
        changes.append(target)
        return rename(path, target)

    def sync_or_die(path):
        if path == tmp_path and len(changes) == done:
            raise KeyboardInterrupt
        sync(path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", rename_or_die)
        patched.setattr(checkpoints, "sync", sync_or_die)
        save(tmp_path, 5, b"newer")
    assert len(changes) == done
    checkpoints.discard_unfinished(tmp_path)
    found, passed = checkpoints.latest_whole(tmp_path)
    assert found == tmp_path / "global_step_5" and passed == []
    assert (found / SHARD).read_bytes() == (b"newer" if done == 2 else b"older")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["global_step_5", checkpoints.TRACKER]


@pytest.mark.parametrize("text", ["[]", "{", None])
def test_a_state_that_cannot_be_read_is_one_line(tmp_path, text):
    save(tmp_path, 5)
    (tmp_path / "global_step_5" / "state.json").unlink()
    if text is not None:
        (tmp_path / "global_step_5" / "state.json").write_text(text)
    with pytest.raises(UserError, match=r"state\.json .*name another checkpoint"):
        checkpoints.read_state(tmp_path / "global_step_5")


@pytest.mark.parametrize("text", ["[]", "{", '{"step": 5}', '{"step": "5", "metrics": {}}', "[" * 100_000, None])
def test_a_best_step_that_cannot_be_read_is_none(tmp_path, text):
    if text is not None:
        (tmp_path / checkpoints.BEST).write_text(text)
    assert checkpoints.best(tmp_path) is None
    content = {"step": 5, "by": "val/giou", "metrics": {"val/giou": 0.5}}
    write_json(tmp_path / checkpoints.BEST, content)
    assert checkpoints.best(tmp_path) == content

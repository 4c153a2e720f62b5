"""The best step saved without its optimizer can be merged, but not resumed."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from segzero.errors import UserError
from segzero.training import checkpoints
from segzero.training.merge import merge
from tests.helpers.launching import complaint, start, wait


def save(run, step: int, weights_only: bool = False) -> None:
    actor = checkpoints.new_unfinished(run, step) / "actor"
    actor.mkdir()
    (actor / "fsdp_config.json").write_text(json.dumps({"world_size": 1}))
    for part in ("model",) if weights_only else ("model", "optim", "extra_state"):
        (actor / f"{part}_world_size_1_rank_0.pt").write_bytes(b"tensors")
    checkpoints.finish(run, step, {}, weights_only)


def test_the_newest_checkpoint_with_optimizer_is_resumed(tmp_path):
    save(tmp_path, 10)
    save(tmp_path, 20, weights_only=True)
    assert checkpoints.damage(tmp_path / "global_step_20") is None
    assert (tmp_path / checkpoints.TRACKER).read_text() == "10"
    found, [line] = checkpoints.find(tmp_path, "auto")
    assert found == tmp_path / "global_step_10"
    assert line == f"checkpoint {tmp_path / 'global_step_20'} holds weights alone, as the best step; passed over"


def test_weights_alone_cannot_be_resumed(tmp_path):
    save(tmp_path, 20, weights_only=True)
    with pytest.raises(UserError, match=r"without optimizer; merge it \(segzero merge\)"):
        checkpoints.find(tmp_path, str(tmp_path / "global_step_20"))
    assert checkpoints.find(tmp_path, "auto")[0] is None


def test_weights_alone_do_not_count_among_the_newest(tmp_path):
    for step, weights_only in ((5, False), (10, False), (15, False), (17, True), (18, True)):
        save(tmp_path, step, weights_only)
    assert checkpoints.prune(tmp_path, 2, keep=[18]) == [5, 17]
    assert checkpoints.steps(tmp_path) == [10, 15, 18]


def test_a_whole_checkpoint_replaces_weights_alone(tmp_path):
    save(tmp_path, 20, weights_only=True)
    save(tmp_path, 20)
    assert not checkpoints.weights_only(tmp_path / "global_step_20")
    assert checkpoints.find(tmp_path, "auto") == (tmp_path / "global_step_20", [])


@pytest.fixture
def worker(policy, tmp_path):
    """The parts of a trainer that save: the shipped model under FSDP2, its optimizer, verl's checkpoint manager."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    model = AutoModelForImageTextToText.from_pretrained(policy)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    manager = FSDPCheckpointManager(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters()),
        processing_class=AutoProcessor.from_pretrained(policy),
        checkpoint_config={"save_contents": ["model", "optimizer", "extra"]},
    )
    engine = SimpleNamespace(checkpoint_manager=manager)
    yield SimpleNamespace(actor=SimpleNamespace(engine=engine, save_checkpoint=manager.save_checkpoint))
    torch.distributed.destroy_process_group()


def test_a_trainer_saves_what_merge_needs_and_no_more(worker, policy, tmp_path):
    from transformers import AutoModelForImageTextToText

    from segzero.training.engine import PolicyWorker

    run = tmp_path / "run"
    PolicyWorker.save_weights(worker, str(checkpoints.new_unfinished(run, 7) / "actor"), 7)
    best = checkpoints.finish(run, 7, {}, weights_only=True)
    assert {path.name for path in best.rglob("*.pt")} == {"model_world_size_1_rank_0.pt"}
    worker.actor.save_checkpoint(str(checkpoints.new_unfinished(run, 8) / "actor"), None, 8, None)
    usual = checkpoints.finish(run, 8, {})
    parts = ("model", "optim", "extra_state")  # the next save is whole again
    assert {path.name for path in usual.rglob("*.pt")} == {f"{part}_world_size_1_rank_0.pt" for part in parts}
    merged = merge(best, tmp_path / "merged", dtype="float32")
    shipped, again = (AutoModelForImageTextToText.from_pretrained(path).state_dict() for path in (policy, merged))
    assert shipped.keys() == again.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in shipped.items())


@pytest.mark.training
@pytest.mark.xdist_group("finished_run")
def test_the_best_step_of_a_run(scenes, tmp_path, finished_run):
    """Steps 1 and 2 validate, only the second is saved: the first is the best so far, as weights alone."""
    run = finished_run
    assert checkpoints.steps(run) == [1, 2]
    first, second = run / "global_step_1", run / "global_step_2"
    assert checkpoints.weights_only(first) and not checkpoints.weights_only(second)
    assert checkpoints.damage(first) is None
    saved = {path.name for path in first.rglob("*.pt")}
    assert saved == {"model_world_size_1_rank_0.pt"}
    assert {path.name for path in second.rglob("*.pt")} > saved | {"data.pt", "optim_world_size_1_rank_0.pt"}
    assert not list(run.glob(".global_step_*")) and not list(run.glob(".seen*"))

    process = start(scenes, run, "trainer.total_training_steps=3", f"segzero.resume={first}", "dry_run=true")
    assert "holds weights alone" in complaint(wait(process))
    assert process.returncode == 2
    merged = merge(first, tmp_path / "merged")
    assert (merged / "model.safetensors").stat().st_size > 1_000_000
    assert "global_step_1" in (merged / "README.md").read_text()

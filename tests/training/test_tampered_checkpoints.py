"""A foreign checkpoint cannot run code: anything but tensors and plain data is refused in one line."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from segzero.training import checkpoints, launch
from segzero.training.config import compose
from segzero.training.verl_glue import patches
from tests.helpers.launching import complaint, start, wait


class Attack:
    """An object that creates a file when it is unpickled without restrictions."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """The environment that every process of a run inherits."""
    before = dict(os.environ)
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    config = compose("train", [f"trainer.default_local_dir={tmp_path / 'run'}"])
    config.data.frame, config.data.prompt = "native", "multi"
    launch.prepare_environment(config)
    patches.load_numpy_states()
    yield os.environ
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def saved(tmp_path):
    """verl's own manager of a trained module's checkpoint, and the folder it was saved in."""
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    net = torch.nn.Linear(4, 4)
    net.config = None
    fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
    optimizer = torch.optim.AdamW(net.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    net(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    scheduler.step()
    contents = {"load_contents": ["model", "optimizer", "extra"], "save_contents": ["model", "optimizer", "extra"]}
    manager = FSDPCheckpointManager(
        model=net, optimizer=optimizer, lr_scheduler=scheduler, checkpoint_config=contents, trust_remote_code=False
    )
    folder = tmp_path / "actor"
    folder.mkdir()
    state = {"model": net.state_dict(), "optim": optimizer.state_dict()}
    state["extra_state"] = {"lr_scheduler": scheduler.state_dict(), "rng": manager.get_rng_state()}
    for part, content in state.items():
        torch.save(content, folder / f"{part}_world_size_1_rank_0.pt")
    yield manager, folder
    torch.distributed.destroy_process_group()


def test_the_files_of_a_run_can_be_read(environment, saved):
    manager, folder = saved
    before = manager.model.weight.full_tensor().clone()
    with torch.no_grad():
        manager.model.weight.zero_()
    manager.load_checkpoint(str(folder))
    assert torch.equal(manager.model.weight.full_tensor(), before)
    assert manager.lr_scheduler.last_epoch == 1


@pytest.mark.parametrize("part", ["model", "optim", "extra_state"])
def test_a_file_that_would_run_code_is_refused(environment, saved, part, tmp_path):
    manager, folder = saved
    marker = tmp_path / "ran"
    file = folder / f"{part}_world_size_1_rank_0.pt"
    torch.save({**torch.load(file), "more": Attack(marker)}, file)
    with pytest.raises(pickle.UnpicklingError) as caught:
        manager.load_checkpoint(str(folder))
    assert not marker.exists()
    line = str(launch.explain(caught.value, tmp_path / "run"))
    assert "more than tensors and plain data" in line and "posix.system" in line and "\n" not in line


def test_without_the_setting_it_would_have_run(saved, tmp_path, monkeypatch):
    """The reason for the setting: verl's own reading trusts the file."""
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    manager, folder = saved
    marker = tmp_path / "ran"
    torch.save(Attack(marker), folder / "model_world_size_1_rank_0.pt")
    with pytest.raises(Exception):  # noqa: B017  # an exit code is no state_dict
        manager.load_checkpoint(str(folder))
    assert marker.exists()


@pytest.mark.training
@pytest.mark.xdist_group("finished_run")
def test_a_run_does_not_resume_from_it(scenes, tmp_path, finished_run):
    """verl opens data.pt in the run's own process, before the first step."""
    run, marker = tmp_path / "run", tmp_path / "ran"
    place = Path(shutil.copytree(finished_run, run)) / "global_step_2"
    state = checkpoints.read_state(place)
    place.rename(checkpoints.new_unfinished(run, 2))
    torch.save({"_num_yielded": Attack(marker)}, run / ".global_step_2.unfinished" / "data.pt")
    assert checkpoints.damage(checkpoints.finish(run, 2, state)) is None  # sealed as if it were whole
    process = start(scenes, run, "trainer.total_training_steps=3", "trainer.save_freq=1")
    line = complaint(wait(process))
    assert process.returncode == 2 and "more than tensors and plain data" in line
    assert not marker.exists()

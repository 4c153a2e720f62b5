"""Checks of runs on machines of every kind."""

import os
import subprocess
from pathlib import Path

import pytest

from segzero import machine
from segzero.cli import doctor
from segzero.errors import UserError
from segzero.machine import Gpu, Machine
from segzero.training import hardware
from segzero.training.attention import try_attention
from segzero.training.batch import batch_sizes
from segzero.training.config import compose
from segzero.training.launch import resolve_config
from segzero.training.memory import estimate_memory
from segzero.training.model_shape import shape_of

LAPTOP = Machine(cpus=8, memory=16 << 30, shared=8 << 30)
REPOSITORY = Path(__file__).parents[2]
NEW = Gpu("NVIDIA H100 80GB HBM3", "580.65.06", 9.0)
OLD = Gpu("NVIDIA A100-SXM4-80GB", "550.54.15", 8.0)
SPLIT = "actor_rollout_ref.rollout.tensor_model_parallel_size=1"


def check(there: Machine, *overrides: str) -> None:
    config = resolve_config(compose("train", overrides))
    hardware.check_hardware(config, batch_sizes(config).gpus, there)


def test_a_laptop_will_do():
    check(LAPTOP)


@pytest.mark.parametrize(
    ("there", "overrides", "message"),
    [
        (
            LAPTOP,
            ["ray_kwargs.ray_init.num_cpus=null", "trainer.n_gpus_per_node=2", "ray_kwargs.ray_init.num_gpus=2"],
            "",
        ),
        (
            Machine(cpus=4, memory=16 << 30, shared=8 << 30),
            ["ray_kwargs.ray_init.num_cpus=null"],
            "count 4 CPUs, and the run's processes ask for 5, so some would wait for ever; set ray_kwargs.ray_init",
        ),
        (LAPTOP, ["ray_kwargs.ray_init.num_cpus=3"], "set ray_kwargs.ray_init.num_cpus=5"),
        (
            Machine(cpus=8, memory=16 << 30, shared=32 << 20),
            [],
            "/dev/shm has 32 MiB, and the run needs 64; start the container with --ipc=host",
        ),
        (LAPTOP, ["segzero.segmenter.num_gpus=0.7"], "a trainer leaves 0.67 of its GPU; lower it"),
        (LAPTOP, ["segzero.segmenter.num_cpus=3"], "a trainer leaves 2; lower it"),
        (LAPTOP, ["hardware=gpu4", SPLIT], "but this machine has 0 GPUs; choose hardware=cpu"),
        (
            Machine(cpus=64, memory=512 << 30, shared=64 << 30, gpus=(OLD,) * 4),
            ["hardware=gpu4", SPLIT],
            "NVIDIA driver 550.54.15 is older than 580, which CUDA 13 needs; update the driver",
        ),
        (
            Machine(cpus=64, memory=512 << 30, shared=64 << 30, gpus=(Gpu("Tesla V100", "580.65", 7.0),)),
            ["hardware=gpu1"],
            "Tesla V100 has compute capability 7; 8 (Ampere) or newer is needed",
        ),
    ],
)
def test_runs_that_would_fail_later_are_refused(there, overrides, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    if not message:
        check(there, *overrides)
        return
    with pytest.raises(UserError) as caught:
        check(there, *overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_several_gpus_need_shared_memory(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    container = Machine(cpus=64, memory=512 << 30, shared=64 << 20)
    with pytest.raises(UserError, match=r"/dev/shm has 64 MiB.*--ipc=host"):
        check(container, "hardware=gpu4")
    check(container, "hardware=gpu1")


def test_too_little_memory_is_refused_or_remarked():
    config = resolve_config(compose("train", []))
    memory = estimate_memory(config, batch_sizes(config), shape_of(config.actor_rollout_ref.model.path))
    assert hardware.check_room(config, memory, Machine(8, int(1.5 * memory.host), None)) == []
    [remark] = hardware.check_room(config, memory, Machine(8, int(1.05 * memory.host), None))
    assert remark.endswith("close what else uses it")
    with pytest.raises(UserError, match=r"GiB of memory, and the machine has .*; lower actor_rollout_ref"):
        hardware.check_room(config, memory, Machine(8, int(0.9 * memory.host), None))


def test_a_disk_that_checkpoints_would_fill_is_a_remark():
    config = resolve_config(compose("train", []))
    memory = estimate_memory(config, batch_sizes(config), shape_of(config.actor_rollout_ref.model.path))
    room = int(4 * memory.checkpoint)  # the two newest, the best, and one being written
    assert hardware.check_room(config, memory, Machine(8, 64 << 30, None, disk=room + 1)) == []
    [remark] = hardware.check_room(config, memory, Machine(8, 64 << 30, None, disk=room - 1))
    assert remark.startswith("remark   4 checkpoints of ") and "lower segzero.keep_last" in remark


def test_a_dry_run_for_several_nodes_does_not_need_this_machine():
    config = resolve_config(compose("train", ["hardware=multinode", "dry_run=true"]))
    hardware.check_hardware(config, batch_sizes(config).gpus, Machine(2, 1 << 30, 64 << 20))


def test_doctor_judges_the_driver_and_shared_memory():
    old = dict(doctor.training(Machine(64, 512 << 30, 64 << 20, gpus=(OLD,) * 2), cuda="13.0"))
    assert old["GPUs"] == "NVIDIA driver 550.54.15 is older than 580, which CUDA 13 needs; update the driver"
    assert "--ipc=host" in old["shared memory"]
    new = dict(doctor.training(Machine(64, 512 << 30, 64 << 30, gpus=(NEW,) * 2), cuda="13.0"))
    assert new["GPUs"] == "2 usable" and "shared memory" not in new
    assert dict(doctor.training(LAPTOP, cuda="13.0"))["GPUs"] == "none"


@pytest.mark.skipif(machine.has_flash(), reason="flash-attn is installed, so its attention works")
def test_an_attention_that_is_not_installed_is_one_line():
    with pytest.raises(UserError, match="attn_implementation=flash_attention_2 does not work here: ") as caught:
        try_attention(implementation="flash_attention_2")
    assert "\n" not in str(caught.value)
    try_attention(implementation="sdpa")


@pytest.mark.parametrize(
    ("driver", "message"), [("550.54.15", "driver 550.54.15 is older than 580"), ("580.65.06", "")]
)
def test_make_warns_of_a_driver_that_is_too_old(tmp_path, driver, message):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho {driver}\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = ["make", "-s", "driver", "ACCELERATOR=cuda"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    assert message in done.stderr and bool(done.stderr) == bool(message)


def test_a_dry_run_for_another_machine_is_not_refused():
    config = resolve_config(compose("train", ["hardware=gpu4", "dry_run=true"]))
    hardware.check_hardware(config, batch_sizes(config).gpus, Machine(2, 1 << 30, 64 << 20))
    memory = estimate_memory(config, batch_sizes(config), shape_of(config.actor_rollout_ref.model.path))
    [remark] = hardware.check_room(config, memory, Machine(2, 1 << 30, 64 << 20))
    assert remark.endswith("the machine that it is planned for needs more")


def test_gpus_are_read_from_nvidia_smi(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 580.65.06, 9.0'\necho 'Tesla K80, 470.1, [N/A]'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert machine.list_gpus() == (
        Gpu("NVIDIA H100 80GB HBM3", "580.65.06", 9.0),
        Gpu("Tesla K80", "470.1", None),
    )
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML' >&2\nexit 9\n")
    assert machine.list_gpus() == ()


def test_this_machine_is_read():
    there = machine.this_machine()
    assert there.cpus >= 1 and there.memory > 1 << 28
    assert (there.shared is not None) == Path("/dev/shm").is_dir()

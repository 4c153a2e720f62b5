"""Hardware of this machine, and what the installed PyTorch needs of a GPU's driver.

>>> driver_problem(Gpu("NVIDIA A100", "550.54.15", 8.0), cuda="13.0")
'NVIDIA driver 550.54.15 is older than 580, which CUDA 13 needs; update the driver'
>>> driver_problem(Gpu("NVIDIA A100", "580.65.06", 8.0), cuda="13.0")
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

DRIVERS = {12: 525, 13: 580}  # CUDA's major version -> the oldest driver for it
CAPABILITY = 8.0  # bfloat16 and vLLM's attention; Ampere and newer


@dataclass(frozen=True)
class Gpu:
    """A GPU as nvidia-smi lists it, whether or not PyTorch can use it."""

    name: str
    driver: str
    capability: float | None


@dataclass(frozen=True)
class Machine:
    """CPUs, memory and GPUs; sizes in bytes."""

    cpus: int
    memory: int
    shared: int | None  # /dev/shm; None if there is none
    gpus: tuple[Gpu, ...] = ()
    disk: int | None = None  # free where a run would be written; None: not measured


def this_machine(run: Path | None = None) -> Machine:
    """Measure this machine; a container's memory limit counts. `run`, the folder of a run, need not exist yet."""
    shm = Path("/dev/shm")
    return Machine(
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _container_memory()),
        shared=shutil.disk_usage(shm).total if shm.is_dir() else None,
        gpus=list_gpus(),
        disk=free_disk(run or Path.cwd()),
    )


def free_disk(folder: Path) -> int:
    """Free bytes of the disk on which a folder is, or will be."""
    folder = folder.absolute()
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def list_gpus() -> tuple[Gpu, ...]:
    """List the GPUs that nvidia-smi knows."""
    rows = [[part.strip() for part in line.split(",")] for line in nvidia_smi("name,driver_version,compute_cap")]
    return tuple(Gpu(row[0], row[1], _number(row[2])) for row in rows if len(row) == 3)


def nvidia_smi(fields: str) -> list[str]:
    """Query nvidia-smi for fields of each GPU, one line per GPU; [] if it is absent or does not answer."""
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in output.splitlines() if line.strip()]


def has_flash() -> bool:
    """True if flash-attn is installed; `segzero doctor` and a dry run find out whether it also imports."""
    return importlib.util.find_spec("flash_attn") is not None


def cuda_of_torch() -> str | None:
    """CUDA version that the installed PyTorch was built for, such as "13.0"; None for a CPU build."""
    import torch

    version: str | None = torch.version.cuda
    return version


def driver_problem(gpu: Gpu, cuda: str | None) -> str | None:
    """Explain in one line why a GPU can't be used with a build for that version of CUDA; None if it can."""
    if cuda is None:
        return "the installed PyTorch is a CPU build; run `ACCELERATOR=cuda make setup`, or install segzero[train]"
    major = int(cuda.split(".")[0])
    needed, installed = DRIVERS.get(major), _number(gpu.driver.split(".")[0])
    if needed and installed is not None and installed < needed:
        return f"NVIDIA driver {gpu.driver} is older than {needed}, which CUDA {major} needs; update the driver"
    if gpu.capability is not None and gpu.capability < CAPABILITY:
        return f"{gpu.name} has compute capability {gpu.capability:g}; {CAPABILITY:g} (Ampere) or newer is needed"
    return None


def gpus_problem(machine: Machine, wanted: int) -> str | None:
    """Explain in one line why a machine lacks `wanted` GPUs that PyTorch can use; None if it has them."""
    import torch

    usable = torch.cuda.device_count()
    if usable >= wanted:
        return None
    for gpu in machine.gpus:
        if problem := driver_problem(gpu, cuda_of_torch()):
            return problem
    return f"this machine has {usable} GPUs"


def _container_memory() -> int:
    for file in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            return int(file.read_text())
        except (OSError, ValueError):  # "max" means no limit
            continue
    return sys.maxsize


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

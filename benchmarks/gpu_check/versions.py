"""The machine and the versions of a result."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from benchmarks.gpu_check.block import ROOT
from segzero.machine import nvidia_smi

PACKAGES = ("vllm", "verl", "transformers", "peft", "ray", "flash-attn")


def why_no_gpu() -> str | None:
    """The reason, in one line, why there is no usable GPU; None if there is one."""
    import torch

    if torch.cuda.is_available():
        return None
    card = graphics_card()
    if card is None:
        return "there is no NVIDIA GPU here"
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
    return f"PyTorch {torch.__version__}, {built}, can't use the GPU ({card}); `segzero doctor` says more"


def graphics_card() -> str | None:
    """Name, memory and driver of the GPU by nvidia-smi; None if that fails."""
    cards = nvidia_smi("name,memory.total,driver_version")
    return f"{cards[0]}; one of {len(cards)}" if len(cards) > 1 else cards[0] if cards else None


@lru_cache(maxsize=1)
def card_gb() -> float:
    """Memory of the first visible GPU in GB, from another process, as a CUDA context takes some itself."""
    asked = "import torch; print(torch.cuda.get_device_properties(0).total_memory)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=120, check=True)
    return float(done.stdout.split()[-1]) / 1e9


def head(device: str) -> list[str]:
    """First lines of the block."""
    import torch

    if device == "cpu":
        card = f"none: rehearsed on {os.cpu_count()} CPU cores"
    else:
        card = graphics_card() or torch.cuda.get_device_name(0)  # the latter where nvidia-smi is missing
    return [
        f"SegZero gpu-check, commit {commit()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"GPU {card}",
        f"Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}, "
        + ", ".join(f"{name} {installed(name)}" for name in PACKAGES),
    ]


def installed(package: str) -> str:
    """Version of a package; vLLM's build for CPUs has another name."""
    for name in (package, f"{package}-cpu"):
        try:
            return version(name) + (f" ({name})" if name != package else "")
        except PackageNotFoundError:
            continue
    return "not installed"


def commit() -> str:
    """Commit of this clone, with a note if files differ from it."""
    try:
        outputs = [
            subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True).stdout
            for command in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return outputs[0].strip() + (" with changes" if outputs[1].strip() else "")

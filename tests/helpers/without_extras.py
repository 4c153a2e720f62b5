"""Python as `pip install segzero` alone leaves it: the packages of the extras can't be imported."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Packages of setup.py's extras, and packages that those bring in their turn; none is needed by the base requirements.
EXTRAS = (
    "accelerate", "datasets", "fastapi", "httptools", "httpx", "huggingface_hub", "hydra", "matplotlib", "numba",
    "omegaconf", "pandas", "peft", "prometheus_client", "pyarrow", "qwen_vl_utils", "ray", "safetensors", "sam2",
    "starlette", "supervision", "tensordict", "tokenizers", "torch", "torchvision", "transfer_queue", "transformers",
    "uvicorn", "verl", "vllm", "wandb", "xxhash",
)  # fmt: skip
REFUSE_EXTRAS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def run_without_extras(code: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess:
    """Run Python code with these arguments in a folder, without the extras."""
    command = [sys.executable, "-c", REFUSE_EXTRAS + code, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)

"""Random weights of Meta's Hiera-T, and the same weights as transformers names them."""

import subprocess
import sys
from pathlib import Path

from segzero.segmenter.meta_weights import architecture, make_sam2, read_tensors

# In a process of its own, as importing sam2 sets up hydra globally.
MAKE = """
import sys, torch
from sam2.build_sam import build_sam2
torch.manual_seed(0)
model = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", None, device="cpu")
torch.save({"model": model.state_dict()}, sys.argv[1])
"""


def make_meta(folder: Path) -> Path:
    """A `.pt` file as Meta publishes them."""
    file = folder / "sam2.1_hiera_tiny.pt"
    subprocess.run([sys.executable, "-c", MAKE, str(file)], check=True, cwd=folder)
    return file


def convert(file: Path, folder: Path) -> Path:
    """The same weights as a folder that `Sam2Model.from_pretrained` reads."""
    for part in make_sam2(architecture("sam2.1_hiera_t.yaml"), read_tensors(file, "model"), file):
        part.save_pretrained(folder)
    return folder

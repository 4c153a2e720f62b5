"""Flags of ConverSeg's train.py, and what they may be."""

import math
from dataclasses import dataclass

from segzero.errors import UserError

BASE = "Qwen/Qwen2.5-VL-3B-Instruct"


@dataclass(frozen=True)
class TrainFlags:
    """Flags of train.py with its defaults, but for erosion, which is off."""

    data_dir: str
    dataset_jsonl: str = "dataset.jsonl"
    model_cfg: str = "sam2_hiera_s.yaml"
    checkpoint: str = "sam2_hiera_small.pt"
    plm_model_name: str = BASE
    device: str = "cuda"
    steps: int = 3000
    lr: float = 1e-4
    wd: float = 1e-4
    batch_size: int = 4
    acc: int = 4
    min_lr: float = 1e-6
    warmup_updates: int = -1
    lora_r: int = 16
    lora_alpha: int = 32
    max_dim: int = 1024
    er_k: int = 0
    er_it: int = 1
    num_samples: int | None = None
    seed: int = 1337
    workers: int | None = None
    out: str = "./ckpts"
    name: str = "fine_tuned_sam2_batched"
    log_every: int = 20
    save_every: int = 5000
    val_every: int = 20
    val_count: int = 6
    val_dir: str | None = None
    resume_sam_path: str | None = None
    resume_plm_path: str | None = None
    resume_lora_path: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "acc", "lora_r", "log_every", "max_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: it must be 1 or more")
        for name in ("lr", "wd", "min_lr", "er_k", "er_it", "save_every", "val_every"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: it must be 0 or more")
        if self.workers is not None:
            raise UserError("--workers: the training itself reads images, and keeps what it encoded; leave it out")
        if not self.lr > 0 or self.min_lr > self.lr:
            raise UserError(f"--min-lr {self.min_lr} and --lr {self.lr}: the rate falls from the second to the first")

    @property
    def updates(self) -> int:
        """Number of updates."""
        return -(-self.steps // self.acc)

"""Training of the tiny mask model: a prompt head between the tiny policy and the tiny SAM2, by `segzero tune`."""

import shutil
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from segzero.errors import UserError
from segzero.tiny.manifest import FOLDERS
from segzero.tiny.scene_files import write_scenes

STEPS = 800
QUESTIONS = 25_000  # five about each scene
RECIPE = ("batch=40", "rows_per_pass=80", "lr=1e-3", "lora_rank=0", "dice_weight=1", "val_every=100")


def train_mask_model(folder: Path, seed: int, steps: int = STEPS) -> None:
    """Train a mask model from the policy and the segmenter beside `folder`, and save it there in half precision."""
    from segzero.supervised.tune import tune

    parts = {model: folder.parent / FOLDERS[model] for model in ("policy", "segmenter")}
    for model, part in parts.items():
        if not part.is_dir():
            raise UserError(f"no {model} in {part}; `python -m segzero.tiny {model} --out {folder.parent}` makes it")
    with tempfile.TemporaryDirectory() as scratch:
        write_scenes(Path(scratch, "scenes"), train=QUESTIONS, questions=5)
        files = [f"model={parts['policy']}", f"segmenter={parts['segmenter']}", f"data={scratch}/scenes"]
        tune("prompt", [*files, f"out={scratch}/run", f"steps={steps}", f"seed={seed}", *RECIPE])
        run = Path(scratch, "run")
        best = run / "best" if (run / "best").is_dir() else run / "last"
        for file in best.rglob("*.safetensors"):
            save_file({name: w.half() for name, w in load_file(file).items()}, file, metadata={"format": "pt"})
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(best, folder)


def evaluate_mask_model(folder: Path) -> dict[str, float]:
    """Figures on 200 held-out scenes, by the scorer of `segzero eval`."""
    from segzero.data.parquet import from_parquet
    from segzero.mask_pipeline import MaskPipeline
    from segzero.supervised.validation import scores

    with tempfile.TemporaryDirectory() as scratch:
        _, held_out = write_scenes(scratch, train=1)
        figures = scores(MaskPipeline.from_pretrained(folder), list(from_parquet(held_out)))
    return {name.removeprefix("val/"): round(value, 4) for name, value in figures.items()}

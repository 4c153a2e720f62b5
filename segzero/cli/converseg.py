"""Demo and evaluation with the flags of ConverSeg's demo.py and eval.py, for inference_scripts."""

import argparse
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from segzero.cli.repl import EXIT_WORDS
from segzero.data.readers import read
from segzero.errors import UserError
from segzero.evaluation.converseg import evaluate, figures, summary
from segzero.extras import needs
from segzero.images import load_image
from segzero.io import png_bytes, write_atomically, write_json
from segzero.mask_model.protocol import MaskQuestion
from segzero.masks import mask_png
from segzero.viz.mask_pictures import BLUE, grey, heated, on_white, tinted

if TYPE_CHECKING:
    from segzero.mask_model.converseg import ConverSegModel

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def add_model_flags(parser: argparse.ArgumentParser, precision: str) -> None:
    """Add the flags that both scripts have; the last two are ours."""
    parser.add_argument("--model_cfg", default="sam2_hiera_l.yaml", help="name of SAM2's architecture, or a YAML file")
    parser.add_argument("--base_ckpt", help="SAM2 before training: checked, and replaced by --final_ckpt")
    parser.add_argument("--final_ckpt", required=True, type=Path, help="NAME_STEP.torch")
    parser.add_argument("--plm_ckpt", required=True, type=Path, help="NAME_plm_STEP.torch")
    parser.add_argument("--lora_ckpt", required=True, type=Path, help="lora_plm_adapter_STEP")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=list(PRECISIONS), default=precision, help="on a CPU always fp32")
    parser.add_argument("--plm_model_name", help="the language model; default: as the adapters say")
    parser.add_argument(
        "--mask_token",
        choices=("best", "trained"),
        default="best",
        help="best: of three by expected IoU, as published; trained: the one that training uses",
    )


@needs("infer")
def load_model(flags: argparse.Namespace) -> "ConverSegModel":
    """Load the checkpoint that the flags name."""
    from segzero.device import find_device
    from segzero.mask_model.converseg import ConverSegModel, load_sam2
    from segzero.mask_model.converseg_files import RawFiles

    device = find_device(flags.device)
    if flags.base_ckpt is not None:
        load_sam2(Path(flags.base_ckpt), flags.model_cfg, find_device("cpu"))
    precision = PRECISIONS[flags.precision] if device.type == "cuda" else "float32"
    files = RawFiles(flags.final_ckpt, flags.plm_ckpt, flags.lora_ckpt, flags.model_cfg, flags.plm_model_name)
    return ConverSegModel.from_files(files, flags.device, precision, flags.mask_token)


def demo(flags: argparse.Namespace, ask: Callable[[str], str] = input) -> None:
    """Answer one question about an image, or any number at a terminal."""
    if (flags.image is None) != (flags.prompt is None):
        raise UserError("give both --image and --prompt, or neither for questions at the terminal")
    if flags.image is not None:
        load_image(flags.image)  # before models are loaded
    model = load_model(flags)
    if flags.image is not None:
        print_files(draw(model, flags.image, flags.prompt, flags.out_dir))
        return
    while True:
        try:
            if (path := ask("Image path (or 'quit'): ").strip()).lower() in EXIT_WORDS:
                return
            if (question := ask("Text prompt (or 'quit'): ").strip()).lower() in EXIT_WORDS:
                return
            print_files(draw(model, path, question, flags.out_dir))
        except EOFError:
            return
        except UserError as error:
            print(error)


def draw(model: "ConverSegModel", path: str, question: str, folder: Path) -> list[Path]:
    """Answer a question and write its pictures: mask, mask in colour, overlay, and where the prompts looked."""
    from segzero.mask_model.attention import looked_at, recorded_attention

    image = load_image(path)
    with recorded_attention(model.sam.mask_decoder) as maps:
        [answer] = model.answer([MaskQuestion(image, question.strip())])
    side = model.sam.prompt_encoder.image_embedding_size[0]
    attention = looked_at(maps, model.sam.mask_decoder).reshape(side, side).cpu().numpy()
    seen = np.asarray(Image.fromarray(attention).resize(image.size, Image.Resampling.BILINEAR))
    files = {
        "mask": mask_png(answer.mask),
        "mask_color": png_bytes(on_white(answer.mask, BLUE)),
        "overlay": png_bytes(tinted(image, answer.mask, BLUE)),
        "attn_global_gray": png_bytes(grey(seen)),
        "attn_global_overlay": png_bytes(heated(image, seen)),
    }
    stem = Path(path).stem
    return [write_atomically(folder / f"{stem}_{name}.png", content) for name, content in files.items()]


def print_files(files: list[Path]) -> None:
    """Print the paths of files."""
    for file in files:
        print(f"saved {file}")


def evaluate_flags(flags: argparse.Namespace) -> None:
    """Evaluate on items of a JSON file, or on splits of a hub data set, and print the figures of each."""
    if flags.limit is not None and flags.limit < 1:
        raise UserError(f"--limit {flags.limit}: it must be 1 or more")
    if flags.hf_config != "default":
        raise UserError(f"--hf_config {flags.hf_config}: ConverSeg's data set has one configuration, default")
    if flags.hf_cache_dir:
        os.environ["HF_DATASETS_CACHE"] = str(flags.hf_cache_dir)  # read when `datasets` is imported
    if flags.input_json:
        sources = {"JSON": read(flags.input_json, "converseg")}
    else:
        splits = [name.strip() for name in flags.hf_splits.split(",") if name.strip()]
        sources = {f"HF[{split}]": read(flags.hf_dataset, "converseg", split=split) for split in splits}
    if not sources:
        raise UserError(f"--hf_splits {flags.hf_splits!r} names no split, such as sam_seeded,human_annotated")
    first = {name: list(islice(samples, flags.limit)) for name, samples in sources.items()}
    model = load_model(flags)
    print(f"protocol: {model.protocol}")
    found: dict[str, dict[str, float]] = {}
    stems: set[str] = set()
    for name, samples in first.items():
        found[name] = figures(evaluate(model, samples, flags.save_preds, stems))
        print(f"{name}: {summary(found[name])}", flush=True)
    if flags.save_preds:
        content = {"protocol": model.protocol, "checkpoint": str(flags.plm_ckpt), "figures": found}
        write_json(flags.save_preds / "metrics.json", content, indent=1)

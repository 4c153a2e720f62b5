"""Make training data of raw images with the flags of ConverSeg's dataengine/run.py, and those of `segzero data engine`.

python training_scripts/run_converseg.py -i photos -o runs/engine -c sam2.1_hiera_l.yaml -k sam2.1_hiera_large.pt \\
    --vlm https://generativelanguage.googleapis.com/v1beta/openai --vlm-model gemini-flash-latest

The vision-language model is any server's that speaks OpenAI's protocol; its key is read from OPENAI_API_KEY.
"""

import argparse
import sys
from pathlib import Path

import typer

from segzero.cli.engine import EngineOptions, MakingOptions, run_images
from segzero.errors import UserError
from segzero.extras import needs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input", required=True, help="an image or a folder")
    parser.add_argument("-c", "--config", default="sam2.1_hiera_l.yaml", help="SAM2's architecture")
    parser.add_argument("-k", "--checkpoint", required=True, help="SAM2's weights: a .pt file, a folder or a hub name")
    parser.add_argument("-o", "--output_dir", required=True)
    parser.add_argument("--vlm", required=True, help="http://HOST:PORT/v1 of the vision-language model")
    parser.add_argument("--vlm-model", default="", help="the model's name there, if it serves several")
    parser.add_argument("--budget", type=float, help="most dollars for the output folder")
    parser.add_argument("--price", help="IN,OUT in dollars per million tokens")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", default="auto")
    flags = parser.parse_args()
    limits = EngineOptions(flags.vlm, flags.vlm_model, flags.budget, flags.price, flags.workers)
    making = MakingOptions(points_per_side=64, longest=768)  # as published
    with needs("infer"):
        from segzero.device import find_device
        from segzero.mask_model.converseg import load_sam2
        from segzero.segmenter import Segmenter, load_segmenter

    def load() -> Segmenter:
        if flags.checkpoint.endswith(".pt"):
            return load_sam2(Path(flags.checkpoint), flags.config, find_device(flags.device))
        return load_segmenter(flags.checkpoint, device=flags.device)

    run_images(flags.input, Path(flags.output_dir), flags.checkpoint, load, limits, making)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"run_converseg: {error}", file=sys.stderr)
        sys.exit(2)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)

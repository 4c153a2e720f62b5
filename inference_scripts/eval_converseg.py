"""Evaluate a checkpoint in ConverSeg's own files along its own path; the flags are those of its eval.py.

python inference_scripts/eval_converseg.py --final_ckpt NAME_STEP.torch --plm_ckpt NAME_plm_STEP.torch \\
    --lora_ckpt lora_plm_adapter_STEP --input_json items.json --save_preds preds
"""

import argparse
import sys
from pathlib import Path

from segzero.cli.converseg import add_model_flags, evaluate_flags
from segzero.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_flags(parser, precision="fp32")
    parser.add_argument("--input_json", help="a file of items, in place of the data set")
    parser.add_argument("--hf_dataset", default="aadarsh99/ConvSeg", help="a hub name, or a folder")
    parser.add_argument("--hf_config", default="default")
    parser.add_argument("--hf_splits", default="sam_seeded,human_annotated")
    parser.add_argument("--hf_cache_dir", type=Path)
    parser.add_argument("--limit", type=int, help="most samples of a split")
    parser.add_argument("--save_preds", type=Path, help="folder for masks, overlays, questions and metrics.json")
    evaluate_flags(parser.parse_args())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"eval_converseg: {error}", file=sys.stderr)
        sys.exit(2)

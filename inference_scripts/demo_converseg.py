"""Answer questions with a checkpoint in ConverSeg's own files; the flags and pictures are those of its demo.py.

python inference_scripts/demo_converseg.py --final_ckpt NAME_STEP.torch --plm_ckpt NAME_plm_STEP.torch \\
    --lora_ckpt lora_plm_adapter_STEP --image IMAGE --prompt "the left-most person" --out_dir demo

Without --image and --prompt it asks for both, until "quit".
"""

import argparse
import sys
from pathlib import Path

from segzero.cli.converseg import add_model_flags, demo
from segzero.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_flags(parser, precision="bf16")
    parser.add_argument("--image")
    parser.add_argument("--prompt")
    parser.add_argument("--out_dir", required=True, type=Path)
    demo(parser.parse_args())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"demo_converseg: {error}", file=sys.stderr)
        sys.exit(2)

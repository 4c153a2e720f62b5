"""Merge LoRA adapters into their base, as MLLMSeg's merge_lora_mllmseg.py does: a policy's or a mask model's.

python training_scripts/merge_lora.py runs/sft/best my_policy
"""

import argparse
import sys
from pathlib import Path

from segzero.errors import UserError
from segzero.supervised.merge_adapters import merge_adapters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="A folder of adapters, or a mask model that holds them.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--base", help="The base model, if it is not where the adapters say.")
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    print(merge_adapters(options.input, options.output, options.dtype, options.base))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"merge_lora: {error}", file=sys.stderr)
        sys.exit(2)

"""Ask about an image in several rounds, as in SegLLM: questions, [REF:k], clear history, exit.

python inference_scripts/chat.py --image_path IMAGE
"""

import argparse
import sys
from pathlib import Path

from segzero.cli.chat import chat
from segzero.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reasoning_model_path", help="Qwen-VL checkpoint; default: the small one that is shipped")
    parser.add_argument("--segmentation_model_path", help="SAM2 checkpoint; default: the small one that is shipped")
    parser.add_argument("--image_path", required=True)
    parser.add_argument("--output_path", type=Path, default=Path("dialogue"), help="folder for each round's picture")
    args = parser.parse_args()
    try:
        chat(
            image=args.image_path,
            out=args.output_path,
            policy=args.reasoning_model_path,
            segmenter=args.segmentation_model_path,
        )
    except UserError as error:
        print(f"chat.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

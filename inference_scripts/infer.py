"""One image, one question, one picture: the flags that Seg-Zero's users know.

python inference_scripts/infer.py --image_path IMAGE --text "the unusual object in the image"
"""

import argparse
import sys
from pathlib import Path

from segzero.errors import UserError
from segzero.images import load_image
from segzero.io import png_bytes, write_atomically


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reasoning_model_path", help="Qwen-VL checkpoint; default: the small one that is shipped")
    parser.add_argument("--segmentation_model_path", help="SAM2 checkpoint; default: the small one that is shipped")
    parser.add_argument("--text", default="the unusual object in the image")
    parser.add_argument("--image_path", required=True)
    parser.add_argument("--output_path", type=Path, default=Path("inference_scripts/test_output.png"))
    args = parser.parse_args()
    try:
        image = load_image(args.image_path)

        from segzero.pipeline import SegZeroPipeline

        pipeline = SegZeroPipeline.from_pretrained(args.reasoning_model_path, args.segmentation_model_path)
        [result] = pipeline([image], [args.text])
        print(f"Thinking process: {result.think}")
        print(f"Answer: {result.error or [found.box for found in result.instances]}")
        print(f"Picture: {write_atomically(args.output_path, png_bytes(result.panel()))}")
    except UserError as error:
        print(f"infer.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

"""Answer a question about an image with a picture of its masks; the flags are those of Seg-Zero's script.

python inference_scripts/infer.py --image_path IMAGE --text "the unusual object in the image"
"""

import argparse
import sys
from pathlib import Path

from segzero.errors import UserError
from segzero.extras import needs
from segzero.images import load_image
from segzero.io import png_bytes, write_atomically
from segzero.pipeline import SegZeroPipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reasoning_model_path", help="Qwen-VL checkpoint; default: the small one that is shipped")
    parser.add_argument("--segmentation_model_path", help="SAM2 checkpoint; default: the small one that is shipped")
    parser.add_argument("--text", default="the unusual object in the image")
    parser.add_argument("--image_path", required=True)
    parser.add_argument("--output_path", type=Path, default=Path("inference_scripts/test_output.png"))
    args = parser.parse_args()
    try:
        answer(args)
    except UserError as error:
        print(f"infer.py: {error}", file=sys.stderr)
        sys.exit(2)


@needs("infer")
def answer(args: argparse.Namespace) -> None:
    """Answer the question, print the answer and write the picture."""
    image = load_image(args.image_path)  # before models are loaded
    pipeline = SegZeroPipeline.from_pretrained(args.reasoning_model_path, args.segmentation_model_path)
    [result] = pipeline([image], [args.text])
    print(f"Thinking process: {result.think}")
    print(f"Answer: {result.error or [mask.box for mask in result.instances]}")
    print(f"Picture: {write_atomically(args.output_path, png_bytes(result.panel()))}")


if __name__ == "__main__":
    main()

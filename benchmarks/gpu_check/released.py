"""Check of real checkpoints on a photo with a known answer: the answer must be readable and the mask in its place.

python -m benchmarks.gpu_check.released POLICY SEGMENTER DEVICE FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np

PHOTO = Path(__file__).parents[2] / "tests" / "photos" / "coffee.jpg"
QUESTION = "the cup that the coffee is in"
CUP = (173, 17, 409, 308)  # x0, y0, x1, y1: see the README beside the photo
OVERLAP = 0.6  # least IoU of the boxes; the saucer's box has less than 0.5
WITHIN = 0.8  # least share of the mask that is inside the box


def main() -> None:
    from segzero.pipeline import SegZeroPipeline

    policy, segmenter, device, folder = sys.argv[1:]
    pipeline = SegZeroPipeline.from_pretrained(policy, segmenter or None, device=device)
    [result] = pipeline([PHOTO], [QUESTION])
    picture = result.save(Path(folder), "coffee", ("panel", "json"))["panel"]
    result = {
        "text": result.raw_text,
        "error": result.error,
        "areas": [int(each.mask.sum()) for each in result.instances],
        "picture": str(picture),
        "wrong": wrong(result.union) if result.error is None else f"the answer can't be read ({result.error})",
    }
    (Path(folder) / "coffee_check.json").write_text(json.dumps(result))
    pipeline.policy.close()


def wrong(mask: np.ndarray) -> str | None:
    """The reason why a mask [H, W] can't be the cup's; None if it can."""
    from segzero.masks import box_iou, box_of

    box = box_of(mask)
    if box is None:
        return "no mask was drawn"
    x0, y0, x1, y1 = CUP
    overlap, within = float(box_iou(box, CUP)), float(mask[y0:y1, x0:x1].sum() / mask.sum())
    if overlap < OVERLAP or within < WITHIN:
        return f"the mask is not the cup's: IoU of the boxes {overlap:.2f}, {within:.0%} of it within the cup's box"
    return None


if __name__ == "__main__":
    main()

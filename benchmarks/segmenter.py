"""Speed of masks for one image, 8 answers of 3 objects each: embedded once, against encoded for each object.

The published scripts call SAM2's predictor once per object, with the image encoded at each call. Both methods take
turns, use the same weights and the same backend, and end with masks at the image's size. Two models: the shipped tiny
SAM2, and a SAM2.1 Hiera-T at 1024 pixels with random weights, on which speed does not depend. On a CPU, times are CPU
time, so that other load on the machine matters little.

    OMP_NUM_THREADS=1 python -m benchmarks.segmenter [--repeats 3] [--models tiny,hiera-t] [--device auto]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from segzero import shipped
from segzero.device import find_device
from segzero.masks import mask_iou
from segzero.segmenter import MaskPrompt, Segmenter, load_segmenter
from segzero.tiny.questions import HELD_OUT_SEED
from segzero.tiny.scenes import make_scene

ANSWERS, OBJECTS = 8, 3

Clock = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", default="tiny,hiera-t")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()

    device = find_device(args.device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    image, prompts = make_case()
    print(f"{ANSWERS} answers x {OBJECTS} objects, one image of {image.width}x{image.height}, {args.repeats} repeats")
    print(f"seconds ({clock.__name__}): median (fastest to slowest)")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models.split(","):
            path = shipped.segmenter_path() if name == "tiny" else random_hiera_t(Path(folder))
            measure(name, load_segmenter(path, device=str(device)), image, prompts, args.repeats, clock)


def measure(
    name: str, segmenter: Segmenter, image: Image.Image, prompts: list[MaskPrompt], repeats: int, clock: Clock
) -> None:
    """Print one line of the table, and the IoU between the masks of both methods."""
    together(segmenter, image, prompts[:2], clock)  # warm up
    ours, embeds, theirs = [], [], []
    for _ in range(repeats):
        begin = clock()
        masks, embedded = together(segmenter, image, prompts, clock)
        ours.append(clock() - begin)
        embeds.append(embedded)
        begin = clock()
        published = one_by_one(segmenter, image, prompts)
        theirs.append(clock() - begin)
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    print(
        f"{name:8} encoded each time {spread(theirs)}   once {spread(ours)}, of it encoding {spread(embeds)}", end="   "
    )
    print(f"ratio {statistics.median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f})")
    same = [mask_iou(a, b) for a, b in zip(masks, published, strict=True)]
    print(f"{'':8} IoU between both methods' masks: mean {np.mean(same):.4f}, lowest {min(same):.4f}", flush=True)


def together(
    segmenter: Segmenter, image: Image.Image, prompts: list[MaskPrompt], clock: Clock
) -> tuple[list[np.ndarray], float]:
    """Predict the masks of all objects at once; returns them with the seconds that encoding took."""
    begin = clock()
    embeddings = segmenter.embed([image])
    embedded = clock() - begin
    [predictions] = segmenter.decode(embeddings, [prompts])
    return [prediction.masks[0] for prediction in predictions], embedded


def one_by_one(segmenter: Segmenter, image: Image.Image, prompts: list[MaskPrompt]) -> list[np.ndarray]:
    """Predict the same masks with the image encoded for each."""
    return [segmenter.decode(segmenter.embed([image]), [[prompt]])[0][0].masks[0] for prompt in prompts]


def make_case() -> tuple[Image.Image, list[MaskPrompt]]:
    """Make a scene of a photograph's size, and the boxes and points of its answers, which differ a little."""
    rng = np.random.default_rng(HELD_OUT_SEED + 4)
    while len((scene := make_scene(rng, size=640)).shapes) < OBJECTS:
        pass
    prompts = [
        MaskPrompt(box=tuple(np.add(shape.box, rng.uniform(-4, 4, 4)).tolist()), points=[shape.point])
        for _ in range(ANSWERS)
        for shape in scene.shapes[:OBJECTS]
    ]
    return Image.fromarray(scene.image), prompts


def random_hiera_t(folder: Path) -> Path:
    """Save an untrained SAM2.1 Hiera-T, the model of transformers' default configuration."""
    import torch
    from transformers import Sam2Config, Sam2Model, Sam2Processor
    from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor

    torch.manual_seed(0)
    Sam2Model(Sam2Config()).save_pretrained(folder)
    Sam2Processor(Sam2ImageProcessor()).save_pretrained(folder)
    return folder


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


if __name__ == "__main__":
    main()

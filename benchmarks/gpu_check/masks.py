"""SAM2 on a device against SAM2 on the CPU, and the images per second that it encodes.

The masks are the shipped SAM2's, which is trained; speed is that of a SAM2.1 Hiera-T of random weights at 1024 pixels.

    python -m benchmarks.gpu_check.masks DEVICE OUT.json
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.segmenter import random_hiera_t
from segzero import shipped
from segzero.images import load_image
from segzero.masks import mask_iou
from segzero.segmenter import MaskPrompt, Segmenter, load_segmenter
from segzero.tiny.questions import HELD_OUT_SEED, make_samples

SCENES = 16
IMAGES = {"cuda": 32, "cpu": 2}


def main() -> None:
    device, out = sys.argv[1:]
    on_cpu = draw(load_segmenter(shipped.segmenter_path(), device="cpu"))
    ious = {}
    for precision in ("float32", "auto"):
        masks = draw(load_segmenter(shipped.segmenter_path(), device=device, dtype=precision))
        ious[precision] = [float(mask_iou(a, b)) for a, b in zip(masks, on_cpu, strict=True)]
    Path(out).write_text(json.dumps(ious | {"images_a_second": speed(device)}))


def draw(segmenter: Segmenter) -> list[np.ndarray]:
    """Predict the masks of all true objects of a few scenes."""
    masks = []
    for sample in make_samples(SCENES, HELD_OUT_SEED + 13):
        if sample.objects:
            embeddings = segmenter.embed([load_image(sample.image)])
            prompts = [MaskPrompt(box=thing.box, points=thing.points) for thing in sample.objects]
            masks += [prediction.masks[0] for prediction in segmenter.decode(embeddings, [prompts])[0]]
    return masks


def speed(device: str) -> float:
    """Measure the images per second that are encoded with the usual precision."""
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (480, 640, 3), np.uint8)) for _ in range(IMAGES[device])]
    with tempfile.TemporaryDirectory() as folder:
        segmenter = load_segmenter(random_hiera_t(Path(folder)), device=device)
    segmenter.embed(images[:1])  # warm up
    begin = time.perf_counter()
    float(segmenter.embed(images).features[0].sum())  # wait for the device
    return len(images) / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()

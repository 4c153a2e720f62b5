"""Speed and masks of everything mode against transformers' mask-generation pipeline, on the same weights and images.

Both take the shipped tiny SAM2, a grid of 32x32 points in batches of 64, predicted IoU above 0.8, stability from 0.8
(at 0.95 the shipped model has no mask at all) and box IoU 0.7. Both take turns on every held-out scene; seconds are CPU
time of one thread, so that other load on the machine matters little. Masks of both are paired one to one for the
greatest sum of IoU; a pair below 0.5 is none. Recall is that of the scenes' shapes at IoU 0.75.

    OMP_NUM_THREADS=1 python -m benchmarks.everything [--scenes 10] [--sizes 224,640]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment
from transformers import pipeline

from segzero import shipped
from segzero.masks import RLE, encode, iou_matrix
from segzero.segmenter import load_segmenter
from segzero.segmenter.everything import EverythingSettings, find_everything
from segzero.tiny.questions import HELD_OUT_SEED
from segzero.tiny.scenes import make_scene

STABILITY = 0.8
METHODS = ("transformers", "every point", "known skipped")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--sizes", default="224,640", help="sides of the scenes in pixels")
    args = parser.parse_args()

    methods = dict(zip(METHODS, make_methods(), strict=True))
    for side in map(int, args.sizes.split(",")):
        rng = np.random.default_rng(HELD_OUT_SEED + 17)
        scenes = [make_scene(rng, size=side) for _ in range(args.scenes)]
        for find in methods.values():
            find(Image.fromarray(scenes[0].image))  # warm up
        seconds: dict[str, list[float]] = {name: [] for name in METHODS}
        masks: dict[str, list[list[RLE]]] = {name: [] for name in METHODS}
        for scene in scenes:
            for name, find in methods.items():
                begin = time.process_time()
                masks[name].append(find(Image.fromarray(scene.image)))
                seconds[name].append(time.process_time() - begin)
        truths = [[encode(shape.mask) for shape in scene.shapes] for scene in scenes]
        print(f"{args.scenes} scenes of {side}x{side}, CPU seconds an image: median (fastest to slowest)")
        for name in METHODS:
            report(name, seconds, masks, truths)


def make_methods() -> list[Callable[[Image.Image], list[RLE]]]:
    """The pipeline, and ours with every point and without those in known masks, each from an image to masks."""
    theirs = pipeline("mask-generation", model=str(shipped.segmenter_path()), device="cpu")
    segmenter = load_segmenter(shipped.segmenter_path(), device="cpu")

    def generate(image: Image.Image) -> list[RLE]:
        found = theirs(image, points_per_batch=64, pred_iou_thresh=0.8, stability_score_thresh=STABILITY)
        return [encode(np.asarray(mask)) for mask in found["masks"]]

    def make_ours(skip: bool) -> Callable[[Image.Image], list[RLE]]:
        settings = EverythingSettings(stability_thresh=STABILITY, skip_covered=skip)
        return lambda image: [each.rle for each in find_everything(segmenter, image, settings)]

    return [generate, make_ours(False), make_ours(True)]


def report(
    name: str, seconds: dict[str, list[float]], masks: dict[str, list[list[RLE]]], truths: list[list[RLE]]
) -> None:
    """Print a method's line: speed, recall, and agreement with transformers."""
    ratios = [theirs / ours for theirs, ours in zip(seconds[METHODS[0]], seconds[name], strict=True)]
    reached = [best for found, true in zip(masks[name], truths, strict=True) for best in best_ious(found, true)]
    pairs = [iou for a, b in zip(masks[METHODS[0]], masks[name], strict=True) for iou in paired(a, b)]
    total = sum(map(len, masks[METHODS[0]]))
    print(
        f"{name:14} {spread(seconds[name], 2)} s   {spread(ratios, 1)}x   masks {sum(map(len, masks[name]))}   "
        f"recall {np.mean(np.array(reached) > 0.75):.3f}, mean IoU {np.mean(reached):.3f}   "
        f"paired {len(pairs)} of {total}, mean IoU {np.mean(pairs):.4f}",
        flush=True,
    )


def best_ious(found: list[RLE], true: list[RLE]) -> list[float]:
    """The best IoU that each true mask reaches."""
    return iou_matrix(found, true).max(axis=0, initial=0).tolist()


def paired(a: list[RLE], b: list[RLE]) -> list[float]:
    """IoUs of the pairs of two lists of masks, those below 0.5 left out."""
    overlap = iou_matrix(a, b)
    ious = overlap[linear_sum_assignment(-overlap)]
    return ious[ious >= 0.5].tolist()


def spread(values: list[float], digits: int) -> str:
    middle, low, high = (f"{v:.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()

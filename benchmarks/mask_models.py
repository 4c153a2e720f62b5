"""Masks of rings and emblems, where a box says too little: mask models beside SAM2 prompted with boxes.

    python -m benchmarks.mask_models NAME=FOLDER ... [--count 200]

A mean of mask IoU over held-out scenes, with its 95 % interval by bootstrap, for questions of all kinds, for a ring,
and for the emblem of a shape ("the emblem of the red circle"). Beside the mask models stand the shipped policy with
SAM2, and SAM2 alone with the true box, which no question gives away.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import numpy as np

from segzero import SegZeroPipeline, shipped
from segzero.evaluation.metrics import score_masks
from segzero.evaluation.statistics import bootstrap, interval
from segzero.mask_pipeline import MaskPipeline
from segzero.sample import Sample
from segzero.segmenter import load_segmenter
from segzero.segmenter.protocol import MaskPrompt
from segzero.tiny.questions import HELD_OUT_SEED, Question, make_samples, samples_of

SEED = HELD_OUT_SEED + 77
SETS: dict[str, Callable[[int], list[Sample]]] = {
    "all kinds": lambda count: make_samples(count, SEED),
    "rings": lambda count: samples_of(
        lambda q: [s.kind for s in q.targets] == ["ring"] and q.kind != "emblem", count, SEED
    ),
    "emblems": lambda count: samples_of(lambda q: q.kind == "emblem", count, SEED),
}


def _asks_for_a_ring(question: Question) -> bool:
    return [shape.kind for shape in question.targets] == ["ring"] and question.kind != "emblem"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    rows: dict[str, Callable[[Sequence[Sample]], list[np.ndarray]]] = {
        "SAM2 with the true box": by_true_box,
        "the shipped policy with SAM2": by_pipeline(SegZeroPipeline.from_pretrained(device="cpu")),
    }
    for pair in args.models:
        name, equals, folder = pair.partition("=")
        if not equals:
            sys.exit(f"{pair}: write NAME=FOLDER")
        rows[name] = by_pipeline(MaskPipeline.from_pretrained(folder, device="cpu"))
    sets = {name: make(args.count) for name, make in SETS.items()}
    print(f"mean mask IoU of {args.count} held-out scenes each, with its 95 % interval")
    print("| | " + " | ".join(sets) + " |")
    print("|---" * (1 + len(sets)) + "|")
    for name, predict in rows.items():
        cells = [figure(predict(samples), samples) for samples in sets.values()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def figure(masks: Sequence[np.ndarray], samples: Sequence[Sample]) -> str:
    """Mean IoU with its interval; nothing there, answered as such, is 1."""
    ious = [score_masks(mask, sample.mask()).iou for mask, sample in zip(masks, samples, strict=True)]
    low, high = interval(bootstrap(np.array(ious)[:, None]) / len(ious))
    return f"{np.mean(ious):.3f} ({low[0]:.3f} to {high[0]:.3f})"


def by_true_box(samples: Sequence[Sample]) -> list[np.ndarray]:
    """Masks that SAM2 draws in the true boxes."""
    segmenter = load_segmenter(shipped.segmenter_path(), device="cpu")
    masks = []
    for sample in samples:
        prompts = [MaskPrompt(box=true.box) for true in sample.objects]
        [drawn] = segmenter.decode(segmenter.embed([sample.open()]), [prompts])
        masks.append(np.any([one.masks[0] for one in drawn], axis=0) if drawn else np.zeros(sample.size[::-1], bool))
    return masks


def by_pipeline(pipeline: SegZeroPipeline | MaskPipeline) -> Callable[[Sequence[Sample]], list[np.ndarray]]:
    """Masks of a pipeline, all instances together."""

    def predict(samples: Sequence[Sample]) -> list[np.ndarray]:
        results = pipeline([sample.open() for sample in samples], [sample.question for sample in samples])
        return [result.union for result in results]

    return predict


if __name__ == "__main__":
    main()

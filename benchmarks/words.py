"""Thresholds of `segzero words` on the synthetic scenes: how well the shipped models tell present phrases from absent.

Each scene asks for the colour and kind of every shape, and for as many that it does not show. Printed are, for several
text thresholds, the share of present phrases that are found, of absent ones that are reported, and the mean IoU of the
found ones; and the area under the curve of the presence (0.5 would be chance).

    python benchmarks/words.py --scenes 60
"""

import argparse

import numpy as np
from PIL import Image

from segzero.masks import mask_iou
from segzero.pipeline import SegZeroPipeline
from segzero.tiny.questions import HELD_OUT_SEED
from segzero.tiny.scenes import COLOURS, KINDS, make_scene
from segzero.words import find_words

THRESHOLDS = (0.0, 0.25, 0.5, 0.75, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED + 40)
    options = parser.parse_args()
    pipeline = SegZeroPipeline.from_pretrained(policy_backend="transformers")
    rng = np.random.default_rng(options.seed)
    there, absent = [], []  # (presence, instances found, IoU), (presence, instances found)
    for _ in range(options.scenes):
        scene = make_scene(rng)
        shown: dict[str, np.ndarray] = {}
        for shape in scene.shapes:
            name = f"{shape.colour} {shape.kind}"
            shown[name] = shown.get(name, np.zeros_like(shape.mask)) | shape.mask
        others = [name for kind in KINDS for colour in COLOURS if (name := f"{colour} {kind}") not in shown]
        asked = [*shown, *rng.choice(others, len(shown), replace=False)]
        for name, result in zip(
            asked, find_words(pipeline, Image.fromarray(scene.image), asked, 0.0, 0.0), strict=True
        ):
            row = (result.presence or 0.0, len(result))
            if name in shown:
                there.append((*row, mask_iou(result.union, shown[name])))
            else:
                absent.append(row)
    print(f"{options.scenes} scenes, {len(there)} phrases that are there, {len(absent)} that are not")
    print("text threshold  found of present  reported of absent  mean IoU of found")
    for threshold in THRESHOLDS:
        found = [iou for presence, count, iou in there if presence >= threshold and count]
        wrong = [1 for presence, count in absent if presence >= threshold and count]
        shares = f"{len(found) / len(there):16.1%}  {len(wrong) / len(absent):18.1%}"
        print(f"{threshold:14.2f}  {shares}  {np.mean(found):17.3f}")
    pairs = [(p > a) + (p == a) / 2 for p, *_ in there for a, _ in absent]
    print(f"area under the curve of the presence: {np.mean(pairs):.3f}")


if __name__ == "__main__":
    main()

"""What retraining between the stages of annotation gives: emblems of scenes, which an annotator draws, then one click.

The shipped SAM2 takes a click on an emblem for the whole shape. An annotation project is filled with the emblems of
scenes, as an annotator would with the brush; it becomes samples, and the mask decoder is retrained on them. Reported is
the IoU of one click and of a box on held-out scenes, for emblems and for whole shapes, before and after.

    python -m benchmarks.segmenter_stages --images 40 --steps 120
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from segzero.data.annotation import Draft, open_project
from segzero.data.prepare import prepare
from segzero.masks import encode
from segzero.sample import Object, Sample
from segzero.segmenter.transformers import TransformersSegmenter
from segzero.shipped import segmenter_path
from segzero.supervised.segmenter import one_prompt_scores, tune_segmenter
from segzero.tiny.questions import HELD_OUT_SEED
from segzero.tiny.scenes import Scene, make_scene

ANNOTATED_SEED = 91_000


def scenes_with_emblems(count: int, seed: int) -> list[Scene]:
    """Scenes of which at least one shape has an emblem."""
    rng, scenes = np.random.default_rng(seed), []
    while len(scenes) < count:
        scene = make_scene(rng)
        if any(shape.part is not None for shape in scene.shapes):
            scenes.append(scene)
    return scenes


def held_out(scenes: list[Scene], part: bool) -> list[Sample]:
    """Samples of the emblems, or of the whole shapes."""
    samples = []
    for number, scene in enumerate(scenes):
        masks = [shape.part if part else shape.mask for shape in scene.shapes]
        objects = tuple(Object((0, 0, 1, 1), rle=encode(mask)) for mask in masks if mask is not None)
        samples.append(Sample(str(number), scene.png(), "it", scene.size, scene.size, objects))
    return samples


def main() -> None:
    """Annotate, retrain, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--whole", action="store_true", help="the annotator keeps the whole shapes too")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    tests = scenes_with_emblems(100, HELD_OUT_SEED + 91)
    sets = {"emblems": held_out(tests, part=True), "whole shapes": held_out(tests, part=False)}

    def report(name: str, path: Path) -> None:
        segmenter = TransformersSegmenter(path, "cpu")
        for kind, samples in sets.items():
            figures = one_prompt_scores(segmenter, samples)
            print(f"{name:10} {kind:13} one click {figures['val/click']:.3f}  box {figures['val/box']:.3f}", flush=True)

    report("shipped", Path(segmenter_path()))
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "images").mkdir()
            scenes = scenes_with_emblems(options.images, ANNOTATED_SEED + seed)
            for number, scene in enumerate(scenes):
                (folder / "images" / f"{number:04}.png").write_bytes(scene.png())
            project, _ = open_project(folder / "project", folder / "images")
            for id, scene in zip(project.entries, scenes, strict=True):
                masks = [("emblem", shape.part) for shape in scene.shapes if shape.part is not None]
                if options.whole:
                    masks += [("shape", shape.mask) for shape in scene.shapes]
                project.save(id, 0, [Draft(name, encode(mask), "brush") for name, mask in masks], True, "anna")
            prepare(str(project.folder), "annotation", folder / "data")
            begin = time.perf_counter()
            settings = [f"steps={options.steps}", f"lr={options.lr}", f"seed={seed}", "val_every=60", "save_every=1000"]
            run = tune_segmenter([f"data={folder / 'data'}", f"out={folder / 'run'}", *settings])
            print(f"{time.perf_counter() - begin:.0f} s")
            report(f"seed {seed}", run / "best")


if __name__ == "__main__":
    main()

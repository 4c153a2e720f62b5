"""Whether a segmenter draws the masks of a sample from its boxes and points: what can't be drawn can't be rewarded."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from segzero.data.recipe import image_key
from segzero.masks import decode, mask_iou
from segzero.sample import Object, Sample

if TYPE_CHECKING:
    from segzero.segmenter import Segmenter


def agreement(samples: Sequence[Sample], segmenter: str, least: float) -> list[bool]:
    """For each sample: is the IoU of every mask with the drawn one at least `least`? Each image is encoded once."""
    drawer = _load(segmenter)
    by_image: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        by_image.setdefault(image_key(sample), []).append(index)
    verdicts = [True] * len(samples)
    for group in by_image.values():
        objects = {_key(true): true for index in group for true in samples[index].objects if true.rle is not None}
        if not objects:
            continue
        ious = dict(zip(objects, _ious(drawer, samples[group[0]], list(objects.values())), strict=True))
        for index in group:
            verdicts[index] = all(ious.get(_key(true), 1.0) >= least for true in samples[index].objects)
    return verdicts


def _ious(drawer: "Segmenter", sample: Sample, objects: Sequence[Object]) -> list[float]:
    from segzero.segmenter import MaskPrompt

    embeddings = drawer.embed([sample.open()])
    [drawn] = drawer.decode(embeddings, [[MaskPrompt(box=true.box, points=true.points) for true in objects]])
    return [
        mask_iou(decode(true.rle), answer.masks[0])
        for true, answer in zip(objects, drawn, strict=True)
        if true.rle is not None
    ]


def _key(true: Object) -> tuple:
    return true.box, true.rle["counts"] if true.rle else ""


@cache
def _load(path: str) -> "Segmenter":
    """One thread a process, so that the same masks come out whatever else runs; several processes share the cores."""
    import torch

    from segzero.segmenter import load_segmenter

    torch.set_num_threads(1)
    return load_segmenter(path)

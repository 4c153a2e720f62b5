"""Filter of samples by a segmenter: a mask that it can't predict from true boxes and points can't be rewarded."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from segzero.images import image_key
from segzero.masks import decode, mask_iou
from segzero.sample import Object, Sample, object_key

if TYPE_CHECKING:
    from segzero.segmenter import Segmenter


def reproduces_masks(samples: Sequence[Sample], segmenter: str, min_iou: float) -> list[bool]:
    """Tell for each sample whether the segmenter predicts each of its masks with that IoU; embeds an image once."""
    model = _load(segmenter)
    by_image: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        by_image.setdefault(image_key(sample.image), []).append(index)
    passed = [True] * len(samples)
    for group in by_image.values():
        objects = {object_key(true): true for index in group for true in samples[index].objects if true.rle is not None}
        if not objects:
            continue
        ious = dict(zip(objects, _ious(model, samples[group[0]], list(objects.values())), strict=True))
        for index in group:
            passed[index] = all(ious.get(object_key(true), 1.0) >= min_iou for true in samples[index].objects)
    return passed


def _ious(segmenter: "Segmenter", sample: Sample, objects: Sequence[Object]) -> list[float]:
    """IoU of each object's mask with the one predicted from its box and points."""
    from segzero.segmenter import MaskPrompt

    embeddings = segmenter.embed([sample.open()])
    prompts = [MaskPrompt(box=true.box, points=true.points) for true in objects]
    [predictions] = segmenter.decode(embeddings, [prompts])
    return [
        mask_iou(decode(true.rle), prediction.masks[0])
        for true, prediction in zip(objects, predictions, strict=True)
        if true.rle is not None
    ]


@cache
def _load(path: str) -> "Segmenter":
    """Load a segmenter that computes on one thread, so that masks don't depend on what else runs in other processes."""
    import torch

    from segzero.segmenter import load_segmenter

    torch.set_num_threads(1)
    return load_segmenter(path)

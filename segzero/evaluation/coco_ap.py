"""COCO's average precision, computed by pycocotools from samples and what was predicted for them.

>>> coco_ap(pairs, "segm", score="segmenter")                          # doctest: +SKIP
{'AP': 0.41, 'AP50': 0.62, ..., 'kind': 'segm', 'score': "the segmenter's expected IoU"}

A sample asks for one category of one image. Categories that an image was not asked for are not there to be found
wrongly: the figure says more than COCO's own where only present categories are asked.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from segzero.errors import UserError, unknown_name
from segzero.evaluation.scoring import Predicted
from segzero.masks import box_of_rle, coco_annotation, to_rle
from segzero.sample import Sample

KINDS = ("bbox", "segm")
NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def _area_score(found: Predicted, sample: Sample) -> float:
    x0, y0, x1, y1 = found.box
    return (x1 - x0) * (y1 - y0) / (sample.width * sample.height)


# AP ranks predictions by a score that a policy's text does not have. Name -> what stands for it, and its value.
SCORES: dict[str, tuple[str, Callable[[Predicted, Sample], float]]] = {
    "segmenter": ("the segmenter's expected IoU", lambda found, sample: found.score),
    "area": ("box area over image area, as VisionReasoner has it", _area_score),
    "same": ("the same for every prediction", lambda found, sample: 1.0),
}


def coco_ap(
    pairs: Iterable[tuple[Sample, Sequence[Predicted]]], kind: str = "segm", score: str = "segmenter"
) -> dict[str, Any]:
    """AP over IoU 0.50:0.95 and its companions, of masks or of boxes. A failed sample's predictions are [].

    None stands for a figure without any object of that size. Ignored pixels of a sample are one crowd.
    """
    if kind not in KINDS:
        raise unknown_name("kind of AP", kind, list(KINDS))
    if score not in SCORES:
        raise unknown_name("score for AP", score, list(SCORES))
    says, value = SCORES[score]
    images: list[dict[str, Any]] = []  # one a sample: predictions of different categories never meet
    categories: dict[str, int] = {}
    truths: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    for sample, predicted in pairs:
        images.append({"id": len(images) + 1, "width": sample.width, "height": sample.height})
        category = categories.setdefault(sample.category or sample.question, len(categories) + 1)
        both = {"image_id": len(images), "category_id": category}
        truths += [both | truth for truth in _truths(sample, kind)]
        for found in predicted:
            if kind == "bbox" or found.mask is not None:
                place = coco_annotation(found.box, found.mask if kind == "segm" else None)
                predictions.append(both | place | {"score": float(value(found, sample))})
    if all(truth["iscrowd"] for truth in truths):
        raise UserError("AP needs a true object, and no sample has one")
    figures = _evaluate(images, categories, truths, predictions, kind)
    return {**figures, "kind": kind, "score": says, "samples": len(images), "categories": len(categories)}


def _truths(sample: Sample, kind: str) -> list[dict[str, Any]]:
    if kind == "segm" and any(o.rle is None for o in sample.objects):
        raise UserError(f"AP of masks needs a mask of every true object; sample {sample.id!r} has one without")
    found = [coco_annotation(o.box, o.rle) for o in sample.objects]
    ignore = None if sample.ignore is None else to_rle(sample.ignore)
    box = None if ignore is None else box_of_rle(ignore)
    return found if box is None else [*found, coco_annotation(box, ignore, crowd=True)]


def _evaluate(images: list, categories: dict[str, int], truths: list, predictions: list, kind: str) -> dict[str, Any]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def dataset(annotations: list[dict[str, Any]]) -> Any:
        coco = COCO()
        numbered = [annotation | {"id": number} for number, annotation in enumerate(annotations, start=1)]
        named = [{"id": number, "name": name} for name, number in categories.items()]
        coco.dataset = {"images": images, "categories": named, "annotations": numbered}
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        evaluation = COCOeval(dataset(truths), dataset(predictions), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = evaluation.stats[: len(NAMES)].tolist()
    return {name: None if figure < 0 else figure for name, figure in zip(NAMES, figures, strict=True)}

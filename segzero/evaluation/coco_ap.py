"""COCO's average precision, computed by pycocotools from samples and their predicted objects.

>>> coco_ap(pairs, "segm", score="segmenter")                          # doctest: +SKIP
{'AP': 0.41, 'AP50': 0.62, ..., 'kind': 'segm', 'score': "the segmenter's expected IoU"}

A sample asks for one category of one image. Where samples ask only for categories that are present, nothing can be
predicted in their absence, and the figure is higher than COCO's own would be.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from segzero.errors import UserError, unknown_name
from segzero.evaluation.scoring import PredictedObject
from segzero.masks import box_of_rle, check_rle, coco_annotation
from segzero.sample import Sample

KINDS = ("bbox", "segm")
NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def _area_score(one: PredictedObject, sample: Sample) -> float:
    x0, y0, x1, y1 = one.box
    return (x1 - x0) * (y1 - y0) / (sample.width * sample.height)


# AP ranks predictions by a score, which a policy's text does not have. Name -> description and value of a substitute.
RANKING_SCORES: dict[str, tuple[str, Callable[[PredictedObject, Sample], float]]] = {
    "segmenter": ("the segmenter's expected IoU", lambda one, sample: one.score),
    "area": ("box area over image area, as VisionReasoner has it", _area_score),
    "same": ("the same for every prediction", lambda one, sample: 1.0),
}


def coco_ap(
    pairs: Iterable[tuple[Sample, Sequence[PredictedObject]]], kind: str = "segm", score: str = "segmenter"
) -> dict[str, Any]:
    """Compute AP over IoU 0.50:0.95, at 0.5 and 0.75 and by size, of masks or of boxes.

    A failed sample has the predictions []. A figure without any object of its size is None. Ignored pixels of a sample
    are one crowd.
    """
    if kind not in KINDS:
        raise unknown_name("kind of AP", kind, list(KINDS))
    if score not in RANKING_SCORES:
        raise unknown_name("score for AP", score, list(RANKING_SCORES))
    description, value = RANKING_SCORES[score]
    images: list[dict[str, Any]] = []  # one per sample: predictions of different categories never meet
    categories: dict[str, int] = {}
    truths: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    for sample, predicted in pairs:
        images.append({"id": len(images) + 1, "width": sample.width, "height": sample.height})
        category = categories.setdefault(sample.category or sample.question, len(categories) + 1)
        both = {"image_id": len(images), "category_id": category}
        truths += [both | truth for truth in _truths(sample, kind)]
        for one in predicted:
            if kind == "bbox" or one.mask is not None:
                place = coco_annotation(one.box, one.mask if kind == "segm" else None)
                predictions.append(both | place | {"score": float(value(one, sample))})
    if all(truth["iscrowd"] for truth in truths):
        raise UserError("AP needs a true object, and no sample has one")
    figures = _evaluate(images, categories, truths, predictions, kind)
    return {**figures, "kind": kind, "score": description, "samples": len(images), "categories": len(categories)}


def _truths(sample: Sample, kind: str) -> list[dict[str, Any]]:
    if kind == "segm" and any(o.rle is None for o in sample.objects):
        raise UserError(f"AP of masks needs a mask of every true object; sample {sample.id!r} has one without")
    truths = [coco_annotation(o.box, o.rle) for o in sample.objects]
    ignore = None if sample.ignore is None else check_rle(sample.ignore)
    box = None if ignore is None else box_of_rle(ignore)
    return truths if box is None else [*truths, coco_annotation(box, ignore, crowd=True)]


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

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        evaluation = COCOeval(dataset(truths), dataset(predictions), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = evaluation.stats[: len(NAMES)].tolist()
    return {name: None if figure < 0 else figure for name, figure in zip(NAMES, figures, strict=True)}

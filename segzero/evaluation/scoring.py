"""One sample and what was answered -> one `Row`: everything the figures need, and no pixels.

>>> from segzero.sample import Object, Sample
>>> from segzero.masks import encode
>>> truth = Object((0, 0, 4, 2), rle=encode([[1, 1, 1, 1], [1, 1, 1, 1]]))
>>> sample = Sample("s1", "cat.jpg", "the cat", 4, 2, (truth,))
>>> row = score_sample(sample, [Predicted((0, 0, 4, 1), encode([[1, 1, 1, 1], [0, 0, 0, 0]]))])
>>> row.score.iou, row.box_iou, row.matched_masks
(0.5, 0.5, (0.5,))
>>> score_sample(sample, [], error="not_json").score
Score(intersection=0, union=8, pred_empty=False, true_empty=False, failed=True)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np

from rewards.matching import assign
from segzero.errors import UserError
from segzero.evaluation.metrics import Score, score_rles
from segzero.masks import (
    RLE,
    Box,
    Point,
    box_iou,
    box_of_rle,
    iou_matrix,
    merge_checked,
    pixel_count,
    subtract,
    to_rle,
    union,
)
from segzero.sample import Sample


@dataclass(frozen=True, slots=True)
class Predicted:
    """One predicted object, in pixels of the original image."""

    box: Box  # x0, y0, x1, y1
    mask: RLE | None = None  # None draws nothing
    points: tuple[Point, ...] = ()
    score: float = 0.0  # the IoU that the segmenter expects of its mask


@dataclass(frozen=True, slots=True)
class Row:
    """One sample's share in every figure. None where the sample has no such truth."""

    id: str
    question: str = ""
    error: str | None = None  # why there is no answer; such a row counts in every denominator
    category: str = ""
    concept: str = ""
    source: str = ""
    split: str = ""
    dialogue: str = ""  # which of its source's conversations it belongs to
    round: int | None = None  # of that dialogue, from 1
    score: Score | None = None  # of everything that was drawn, as one mask
    published: Score | None = None  # the same with ignored pixels as target, as Seg-Zero's sets have them
    box_iou: float | None = None  # one true object: the box around all predicted boxes against its box
    mask_box_iou: float | None = None  # the box of everything that was drawn against it
    any_box_iou: float | None = None  # the best of the predicted boxes against it
    true_objects: int = 0
    predicted_objects: int = 0
    matched_masks: tuple[float, ...] | None = None  # IoU of each predicted object with the true one assigned to it
    matched_boxes: tuple[float, ...] | None = None
    true_count: int | None = None  # of a counting sample
    lost: bool = False  # no sample could be made of the record: it failed, and its truth is not known


def score_sample(sample: Sample, predicted: Sequence[Predicted], error: str | None = None, drawn: bool = True) -> Row:
    """Score an answer; with an `error` it is a failure, whatever was predicted. `drawn=False`: there was no segmenter.

    A prediction of nothing is `[]` without an error. An object drawn wholly on ignored pixels counts neither way.
    """
    failed = error is not None
    predicted = [] if failed else predicted
    ignore = None if sample.ignore is None else to_rle(sample.ignore)
    drawings = [to_rle(one.mask or union([], sample.size)) for one in predicted]
    everything = merge_checked(drawings, sample.size)
    found, masks = _counted(predicted, drawings, ignore)
    true = [to_rle(o.rle) for o in sample.objects if o.rle is not None]
    boxes = _true_boxes(sample)
    row = Row(
        sample.id,
        sample.question,
        error,
        sample.category,
        sample.concept,
        sample.source,
        sample.split,
        dialogue=str(sample.meta.get("dialogue", "")),
        round=_round(sample),
        true_objects=len(boxes),
        predicted_objects=len(found),
        true_count=_true_count(sample),
    )
    if places_unknown(sample):
        return row
    around = box_of_rle(_less(everything, ignore)) if drawn else None
    ious = _box_ious([o.box for o in found], around, boxes)  # [P + 2, T]
    row = replace(row, matched_boxes=_matched(ious[:-2]))
    if len(boxes) == 1 and row.true_count in (None, 1):  # not one mask of everything that is to be counted
        most = float(ious[:-2].max(initial=0))
        row = replace(
            row, box_iou=float(ious[-2, 0]), any_box_iou=most, mask_box_iou=float(ious[-1, 0]) if drawn else None
        )
    if drawn and len(true) == len(sample.objects):
        truth = merge_checked(true, sample.size)
        score = score_rles(everything, truth, ignore, failed)
        score = replace(score, pred_empty=not found and not failed)  # what it said, even when nothing could be drawn
        with_ignored = (
            score
            if ignore is None
            else score_rles(everything, merge_checked([truth, ignore], sample.size), failed=failed)
        )
        row = replace(row, score=score, published=with_ignored)
    if drawn and len(true) == len(boxes):
        row = replace(row, matched_masks=_matched(iou_matrix(masks, [_less(mask, ignore) for mask in true])))
    return row


def _counted(
    predicted: Sequence[Predicted], drawings: Sequence[RLE], ignore: RLE | None
) -> tuple[Sequence[Predicted], Sequence[RLE]]:
    """The predicted objects that count, and their masks less the ignored pixels."""
    if ignore is None:
        return predicted, drawings
    left = [_less(drawing, ignore) for drawing in drawings]
    counts = [pixel_count(rest) > 0 or not pixel_count(drawing) for rest, drawing in zip(left, drawings, strict=True)]
    return list(compress(predicted, counts)), list(compress(left, counts))


def _less(mask: RLE, ignore: RLE | None) -> RLE:
    return mask if ignore is None else subtract(mask, ignore)


def _round(sample: Sample) -> int | None:
    number = sample.meta.get("round", len(sample.turns) + 1 if sample.turns else None)
    if number is not None and not (type(number) is int and number >= 1):
        raise UserError(f"sample {sample.id!r}: its round must be a whole number from 1, not {number!r}")
    return number


def _true_count(sample: Sample) -> int | None:
    count = sample.meta.get("count")
    if count is not None and not (isinstance(count, int) and count >= 0):
        raise UserError(f"sample {sample.id!r}: its count must be a whole number from 0, not {count!r}")
    return count


def places_unknown(sample: Sample) -> bool:
    """A counting sample may say how many there are and not where."""
    return sample.empty and bool(sample.meta.get("count"))


def _true_boxes(sample: Sample) -> list[Box]:
    """The published sets give boxes beside one mask of all objects; those tell the objects apart."""
    return [tuple(box) for box in sample.meta.get("boxes", [])] or [o.box for o in sample.objects]


def _matched(iou: np.ndarray) -> tuple[float, ...]:
    """IoU of the pairs of the one-to-one assignment of largest total; [P, T] -> at most min(P, T), overlapping."""
    if not iou.size:
        return ()
    return tuple(value for value in iou[assign(iou)].tolist() if value > 0)


def _box_ious(said: list[Box], drawn: Box | None, true: list[Box]) -> np.ndarray:
    """IoU of each said box, of the box around all of them, and of the drawn one, with the true ones: [P + 2, T]."""
    nowhere = (0.0, 0.0, 0.0, 0.0)
    xs = [*zip(*said, strict=True)] if said else []
    around = (min(xs[0]), min(xs[1]), max(xs[2]), max(xs[3])) if xs else nowhere
    return box_iou([*said, around, drawn or nowhere], np.reshape(true, (-1, 4)))

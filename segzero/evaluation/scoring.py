"""Score of one sample's answer: a `Row` with everything that the figures need and no pixels; scores.jsonl holds them.

>>> from segzero.sample import Object, Sample
>>> from segzero.masks import encode
>>> truth = Object((0, 0, 4, 2), rle=encode([[1, 1, 1, 1], [1, 1, 1, 1]]))
>>> sample = Sample("s1", "cat.jpg", "the cat", 4, 2, (truth,))
>>> row = score_sample(sample, [PredictedObject((0, 0, 4, 1), encode([[1, 1, 1, 1], [0, 0, 0, 0]]))])
>>> row.score.iou, row.box_iou, row.matched_masks
(0.5, 0.5, (0.5,))
>>> score_sample(sample, [], error="not_json").score
Score(intersection=0, union=8, pred_empty=False, true_empty=False, failed=True)
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rewards.matching import assign
from segzero.errors import UserError
from segzero.evaluation.metrics import Score, score_rles
from segzero.evaluation.typed import typed
from segzero.io import write_atomically
from segzero.masks import (
    RLE,
    Box,
    Point,
    box_iou,
    box_of_rle,
    check_rle,
    iou_matrix,
    merge_checked,
    pixel_count,
    subtract,
    union,
)
from segzero.sample import Sample

SCORES = "scores.jsonl"


@dataclass(frozen=True, slots=True)
class PredictedObject:
    """One predicted object, in pixels of the original image."""

    box: Box  # x0, y0, x1, y1
    mask: RLE | None = None  # None: no pixels
    points: tuple[Point, ...] = ()
    score: float = 0.0  # the IoU that the segmenter expects of its mask


@dataclass(frozen=True, slots=True)
class Row:
    """Scores of one sample, from which every figure is made. None where the sample has no such truth."""

    id: str
    question: str = ""
    error: str | None = None  # why there is no answer; such a row counts in every denominator
    category: str = ""
    concept: str = ""
    source: str = ""
    split: str = ""
    dialogue: str = ""  # the conversation of its source that it belongs to
    round: int | None = None  # of that dialogue, from 1
    score: Score | None = None  # of all predicted masks as one
    published: Score | None = None  # the same with ignored pixels as target, as in Seg-Zero's sets
    box_iou: float | None = None  # one true object: IoU of its box and the box around all predicted boxes
    mask_box_iou: float | None = None  # ... and the box around all predicted masks
    any_box_iou: float | None = None  # ... and the best of the predicted boxes
    true_objects: int = 0
    predicted_objects: int = 0
    matched_masks: tuple[float, ...] | None = None  # IoU of each predicted object with the true one assigned to it
    matched_boxes: tuple[float, ...] | None = None
    true_count: int | None = None  # of a counting sample
    lost: bool = False  # no sample could be made of the record: it failed, and its truth is not known


def check_truth(sample: Sample) -> None:
    """Refuse a sample whose truth cannot be scored: a count, a round or a mask that makes no sense."""
    _true_count(sample)
    _round(sample)
    for rle in [*(o.rle for o in sample.objects), sample.ignore]:
        if rle is not None:
            check_rle(rle, sample.size)


def score_sample(
    sample: Sample, predicted: Sequence[PredictedObject], error: str | None = None, undivided: bool = False
) -> Row:
    """Score an answer; with an `error` it is a failure, whatever was predicted.

    A prediction of nothing is `[]` without an error. An object wholly on ignored pixels counts neither way. One mask
    for everything, `undivided`, is scored as a mask: it says nothing of boxes, of single objects and of their number.
    """
    failed = error is not None
    predicted = [] if failed else predicted
    ignore = None if sample.ignore is None else check_rle(sample.ignore)
    masks = [check_rle(one.mask or union([], sample.size)) for one in predicted]
    merged = merge_checked(masks, sample.size)
    counted, counted_masks = _without_ignored(predicted, masks, ignore)
    true_masks = [check_rle(o.rle) for o in sample.objects if o.rle is not None]
    boxes, count = _true_boxes(sample), _true_count(sample)
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
        predicted_objects=len(counted),
        true_count=None if undivided else count,
    )
    if is_count_alone(sample):
        return row
    ious = _box_ious([one.box for one in counted], box_of_rle(_subtract(merged, ignore)), boxes)  # [P + 2, T]
    if len(boxes) == 1 and count in (None, 1):  # one mask of all counted objects is not a single object
        row = replace(
            row,
            box_iou=float(ious[-2, 0]),
            mask_box_iou=float(ious[-1, 0]),
            any_box_iou=float(ious[:-2].max(initial=0)),
        )
    if len(true_masks) == len(sample.objects):
        truth = merge_checked(true_masks, sample.size)
        score = score_rles(merged, truth, ignore, failed)
        score = replace(score, pred_empty=not counted and not failed)  # an object without pixels is still an answer
        published = score
        if ignore is not None:
            published = score_rles(merged, merge_checked([truth, ignore], sample.size), failed=failed)
        row = replace(row, score=score, published=published)
    if undivided:
        return replace(row, box_iou=None, any_box_iou=None)
    row = replace(row, matched_boxes=_matched(ious[:-2]))
    if len(true_masks) == len(boxes):
        left = [_subtract(mask, ignore) for mask in true_masks]
        row = replace(row, matched_masks=_matched(iou_matrix(counted_masks, left)))
    return row


def as_decided(row: Row, rejected: bool) -> Row:
    """Let a decision say whether an answer is "nothing there"; its masks keep their IoU (GRES as MLLMSeg has it)."""
    score, published = (
        one and replace(one, pred_empty=rejected and not one.failed) for one in (row.score, row.published)
    )
    return replace(row, score=score, published=published)


def is_count_alone(sample: Sample) -> bool:
    """True of a counting sample that says how many objects there are, but not where."""
    return sample.empty and bool(sample.meta.get("count"))


def _without_ignored(
    predicted: Sequence[PredictedObject], masks: Sequence[RLE], ignore: RLE | None
) -> tuple[Sequence[PredictedObject], Sequence[RLE]]:
    """Select the predicted objects that count, with their masks less the ignored pixels."""
    if ignore is None:
        return predicted, masks
    left = [_subtract(mask, ignore) for mask in masks]
    counts = [pixel_count(rest) > 0 or not pixel_count(mask) for rest, mask in zip(left, masks, strict=True)]
    return list(compress(predicted, counts)), list(compress(left, counts))


def _subtract(mask: RLE, ignore: RLE | None) -> RLE:
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


def _true_boxes(sample: Sample) -> list[Box]:
    """Boxes of the true objects; published sets have them beside one mask of all objects together."""
    return [tuple(box) for box in sample.meta.get("boxes", [])] or [o.box for o in sample.objects]


def _matched(ious: NDArray[np.float64]) -> tuple[float, ...]:
    """IoU of the overlapping pairs in the one-to-one assignment of largest total; [P, T] -> at most min(P, T)."""
    if not ious.size:
        return ()
    return tuple(value for value in ious[assign(ious)].tolist() if value > 0)


def _box_ious(predicted: list[Box], of_masks: Box | None, true: list[Box]) -> NDArray[np.float64]:
    """IoU of each predicted box, of the box around them and of the box around the masks with the true: [P + 2, T]."""
    nowhere = (0.0, 0.0, 0.0, 0.0)
    xs = [*zip(*predicted, strict=True)] if predicted else []
    around = (min(xs[0]), min(xs[1]), max(xs[2]), max(xs[3])) if xs else nowhere
    return box_iou([*predicted, around, of_masks or nowhere], np.reshape(true, (-1, 4)))


def write_rows(folder: Path, rows: Iterable[Row]) -> None:
    """Write scores.jsonl into the folder of an evaluation."""
    write_atomically(folder / SCORES, b"".join(json.dumps(asdict(row)).encode() + b"\n" for row in rows))


def read_rows(folder: Path) -> Iterator[Row]:
    """Read scores.jsonl in the folder of a finished evaluation, in the order of its data."""
    path = folder / SCORES
    if not path.is_file():
        raise UserError(f"no finished evaluation in {folder}: there is no {path.name}; `segzero eval rescore` makes it")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                for name in ("score", "published"):
                    row[name] = None if row[name] is None else typed(Score, row[name])
                for name in ("matched_masks", "matched_boxes"):
                    row[name] = None if row[name] is None else tuple(row[name])
                yield typed(Row, row)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: it is no row of scores; run `segzero eval rescore`") from error

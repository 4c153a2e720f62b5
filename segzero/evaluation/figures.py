"""Figures of a benchmark: their definitions by name, their values over rows of scores, and the summary of a run.

>>> from segzero.evaluation.scoring import Row
>>> from segzero.evaluation.metrics import Score
>>> rows = [Row("a", score=Score(3, 4)), Row("b", score=Score(1, 4))]
>>> values = Table.from_rows(rows).values()
>>> values["giou"], values["ciou"], values["p@0.5"]
(0.5, 0.5, 0.5)
>>> summarise(rows)["figures"]["giou"]
{'value': 0.5, 'low': 0.25, 'high': 0.75, 'of': 2}
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segzero.answer import ERRORS
from segzero.errors import UserError
from segzero.evaluation.metrics import (
    THRESHOLDS,
    Part,
    Score,
    ciou_part,
    giou_part,
    mean_precision_part,
    n_acc_part,
    precision_part,
    t_acc_part,
)
from segzero.evaluation.scoring import Row
from segzero.evaluation.statistics import RESAMPLES, bootstrap, interval

BINS = 20  # of the histogram of IoU
GROUPS = ("category", "concept", "source", "split", "round")  # fields of a row by which figures are grouped


@dataclass(frozen=True)
class Figure:
    """A ratio of two sums over rows."""

    meaning: str  # for the report
    part: Callable[[Row], Part | None]  # added by a row to the two sums; None where the figure does not apply to it
    root: bool = False  # take the square root of the ratio


def _mask(part: Callable[[Score], Part]) -> Callable[[Row], Part | None]:
    return lambda row: part(row.score) if row.score else None


def _reaches(name: str) -> Callable[[Row], Part | None]:
    def part(row: Row) -> Part | None:
        iou = getattr(row, name)
        return None if iou is None else (iou >= 0.5, 1)

    return part


def _any_box(row: Row) -> Part | None:
    return None if row.any_box_iou is None else (row.any_box_iou > 0.5, 1)


def _without_target(row: Row) -> Part | None:
    return n_acc_part(row.score) if row.score and row.score.true_empty else None


def _with_target(row: Row) -> Part | None:
    return t_acc_part(row.score) if row.score and not row.score.true_empty else None


def _target_precision(row: Row, threshold: float) -> Part | None:
    return precision_part(row.score, threshold) if row.score and not row.score.true_empty else None


def _matched_iou(row: Row, name: str) -> Part | None:
    """IoU of the assigned pairs over the larger count of objects; 1 where nothing is there and nothing predicted."""
    ious, most = getattr(row, name), max(row.true_objects, row.predicted_objects)
    if ious is None:
        return None
    return (sum(ious) / most if most else float(row.error is None)), 1


def _f1(row: Row, name: str) -> Part | None:
    """Twice the pairs of IoU 0.5 or more, over the true and the predicted objects."""
    ious = getattr(row, name)
    return None if ious is None else (2 * sum(iou >= 0.5 for iou in ious), row.true_objects + row.predicted_objects)


def _count_exact(row: Row) -> Part | None:
    if row.true_count is None:
        return None
    return row.error is None and row.predicted_objects == row.true_count, 1


def _count_off(row: Row, power: int) -> Part | None:
    """Error of the count; a failure has counted nothing, and is off by the true count."""
    return None if row.true_count is None else (abs(row.predicted_objects - row.true_count) ** power, 1)


def _published(part: Callable[[Score], Part]) -> Callable[[Row], Part | None]:
    """Count as Seg-Zero's scripts do: an unreadable answer has IoU 0, and so have answers that refer to it; every other
    failure is left out, and so is an empty union.
    """

    def of_row(row: Row) -> Part | None:
        score, unreadable = row.published, row.error in (*ERRORS, "lost_reference", "program_error")
        if score is None or (not unreadable and (row.error or not score.union)):
            return None
        return part(score)

    return of_row


FIGURES: dict[str, Figure] = {
    "giou": Figure("mean of the samples' IoU", _mask(giou_part)),
    "ciou": Figure("all intersections over all unions", _mask(ciou_part)),
    **{
        f"p@{k}": Figure(f"share of samples whose IoU reaches {k}", _mask(partial(precision_part, threshold=k)))
        for k in THRESHOLDS
    },
    "p@0.5:0.9": Figure("mean of the five P@k", _mask(mean_precision_part)),
    "rec_box": Figure("REC Acc@0.5: the box around all predicted boxes", _reaches("box_iou")),
    "rec_mask_box": Figure("REC Acc@0.5: the box of the predicted mask", _reaches("mask_box_iou")),
    "rec_any_box": Figure("REC as published: any predicted box over 0.5", _any_box),
    "n_acc": Figure('samples without a target answered "nothing there"', _without_target),
    "t_acc": Figure("samples with a target answered with a mask", _with_target),
    "answered": Figure("share of samples with an answer that could be read", lambda row: (row.error is None, 1)),
    **{
        f"target_p@{k}": Figure(
            f"gRefCOCO's Pr@{k}: of the samples with a target alone", partial(_target_precision, threshold=k)
        )
        for k in (0.7, 0.8, 0.9)
    },
    "objects_iou": Figure(
        "objects one to one: mask IoU over the larger count", partial(_matched_iou, name="matched_masks")
    ),
    "objects_f1": Figure("objects one to one: F1 at mask IoU 0.5", partial(_f1, name="matched_masks")),
    "objects_box_iou": Figure(
        "objects one to one: box IoU over the larger count", partial(_matched_iou, name="matched_boxes")
    ),
    "objects_box_f1": Figure("objects one to one: F1 at box IoU 0.5", partial(_f1, name="matched_boxes")),
    "count_exact": Figure("share of right counts", _count_exact),
    "count_mae": Figure("mean absolute error of the count", partial(_count_off, power=1)),
    "count_rmse": Figure("root mean square error of the count", partial(_count_off, power=2), root=True),
    "published_giou": Figure("gIoU as Seg-Zero's scripts count", _published(giou_part)),
    "published_ciou": Figure("cIoU as Seg-Zero's scripts count", _published(ciou_part)),
}

# Beginnings of names: figures that repeat others unless some sample has no target, ...
ONLY_WITHOUT_TARGET = ("target_",)
ONLY_SEVERAL = ("objects_",)  # ... unless some sample has several true objects; ...
MEANS = ("giou", "p@", "rec_", "objects_iou", "objects_box_iou", "count_exact")  # ... means of values from 0 to 1


@dataclass(frozen=True, eq=False)
class Table:
    """Parts of every figure from every row. Sums over any choice of rows give the figures of that choice."""

    names: tuple[str, ...]  # of F figures
    columns: NDArray[np.float64]  # [N, 2F] numerators of all figures, then denominators
    applies: NDArray[np.bool_]  # [N, F] True where the figure applies to the row
    units: NDArray[np.intp]  # [N] numbers 0, 1, ...; all rows of one dialogue have the same

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> "Table":
        """Compute the parts of all figures that are relevant for these rows."""
        names = _relevant(rows)
        sums = np.zeros((len(rows), 2, len(names)))
        applies = np.zeros((len(rows), len(names)), dtype=bool)
        for place, row in enumerate(rows):
            parts = [FIGURES[name].part(row) for name in names]
            sums[place] = np.transpose([part or (0, 0) for part in parts])
            applies[place] = [part is not None for part in parts]
        # A record whose truth is lost counts as 0 in every mean that applies to any other sample.
        means = np.array([name.startswith(MEANS) for name in names]) & applies.any(axis=0)
        lost = np.outer([row.lost for row in rows], means)
        sums[:, 1][lost] = 1
        return cls(names, sums.reshape(len(rows), -1), applies | lost, _units(rows))

    @property
    def unit_columns(self) -> NDArray[np.float64]:
        """Columns [U, 2F] of the units that are resampled: single rows, or all rows of a dialogue together."""
        together = np.zeros((len(np.unique(self.units)), self.columns.shape[1]))
        np.add.at(together, self.units, self.columns)
        return together

    def take(self, places: Sequence[int]) -> "Table":
        """Select rows by their places."""
        _, units = np.unique(self.units[places], return_inverse=True)
        return Table(self.names, self.columns[places], self.applies[places], units)

    def only(self, names: Sequence[str]) -> "Table":
        """Select figures by their names."""
        at = np.array([self.names.index(name) for name in names])
        return Table(tuple(names), self.columns[:, [*at, *at + len(self.names)]], self.applies[:, at], self.units)

    def values(self) -> dict[str, float]:
        """Every figure over all rows; nan where the denominator is 0."""
        return dict(zip(self.names, self.ratios(self.columns.sum(axis=0)).tolist(), strict=True))

    def ratios(self, sums: NDArray) -> NDArray[np.float64]:
        """Figures [..., F] from sums of rows [..., 2F]."""
        top, bottom = np.split(sums, 2, axis=-1)
        ratios = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
        return np.where([FIGURES[name].root for name in self.names], np.sqrt(ratios), ratios)


def _units(rows: Sequence[Row]) -> NDArray[np.intp]:
    numbers: dict[object, int] = {}
    names = ((row.source, row.dialogue) if row.dialogue else place for place, row in enumerate(rows))
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.intp)


def _relevant(rows: Sequence[Row]) -> tuple[str, ...]:
    without_target = any(row.score and row.score.true_empty for row in rows)
    several = any(row.true_objects > 1 for row in rows)
    return tuple(
        name
        for name in FIGURES
        if (without_target or not name.startswith(ONLY_WITHOUT_TARGET))
        and (several or not name.startswith(ONLY_SEVERAL))
    )


def summarise(rows: Iterable[Row], resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Summarise a run: figures with 95 % intervals, the same by category, concept, ..., and the failures by code.

    `figures` is name -> {"value", "low", "high", "of"}, where "of" counts the samples to which the figure applies; a
    figure that applies to none is left out. `by_category` and its like are there when there are several groups,
    `by_round` for dialogues.
    """
    rows = list(rows)
    if not rows:
        raise UserError("there is nothing to summarise: no sample was scored")
    table = Table.from_rows(rows)
    summary: dict[str, Any] = {
        "samples": len(rows),
        "failed": sum(row.error is not None for row in rows),
        "errors": _errors(rows),
        "figures": _figures(table, resamples, seed),
    }
    ious = [row.score.iou if row.score else 0.0 for row in rows if row.score or row.lost]
    summary["iou_histogram"] = np.histogram(ious, BINS, (0, 1))[0].tolist()
    summary["resampling"] = {"resamples": resamples, "seed": seed, "level": 0.95}
    if dialogues := {(row.source, row.dialogue) for row in rows if row.dialogue}:
        summary["resampling"]["of"] = "dialogues"
        summary["dialogues"] = len(dialogues)
    for name in GROUPS:
        places = defaultdict(list)
        for place, row in enumerate(rows):
            places[getattr(row, name)].append(place)
        if len(places) > 1 or (name == "round" and None not in places):
            summary[f"by_{name}"] = {
                str(group): _group(rows, chosen, table, resamples, seed)
                for group, chosen in sorted(places.items(), key=lambda item: (item[0] is None, item[0]))
            }
    return summary


def _group(rows: Sequence[Row], places: Sequence[int], table: Table, resamples: int, seed: int) -> dict[str, Any]:
    """Figures of the rows at these places, with the failures by code and without their ids."""
    chosen = [rows[place] for place in places]
    return {
        "samples": len(chosen),
        "failed": sum(row.error is not None for row in chosen),
        "errors": {code: failed["count"] for code, failed in _errors(chosen).items()},
        "figures": _figures(table.take(places), resamples, seed),
    }


def _errors(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Failures by code, the most frequent first."""
    ids: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.error is not None:
            ids[row.error].append(row.id)
    return {
        code: {"count": len(failed), "share": len(failed) / len(rows), "ids": failed}
        for code, failed in sorted(ids.items(), key=lambda item: (-len(item[1]), item[0]))
    }


def _figures(table: Table, resamples: int, seed: int) -> dict[str, dict[str, float | int | None]]:
    low, high = interval(table.ratios(bootstrap(table.unit_columns, resamples, seed)))
    lines = zip(table.values().items(), low, high, table.applies.sum(axis=0), strict=True)
    return {
        name: {"value": value, "low": _none_if_nan(least), "high": _none_if_nan(most), "of": int(of)}
        for (name, value), least, most, of in lines
        if not math.isnan(value)
    }


def _none_if_nan(value: float) -> float | None:
    """A number that JSON can hold, or None."""
    return None if math.isnan(value) else float(value)

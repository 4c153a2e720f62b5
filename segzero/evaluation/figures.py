"""The figures of a benchmark by name: what each sample adds above and below the line, and the tables of all samples.

>>> from segzero.evaluation.scoring import Row
>>> from segzero.evaluation.metrics import Score
>>> table = Table.of([Row("a", score=Score(3, 4)), Row("b", score=Score(1, 4))])
>>> values = table.values()
>>> values["giou"], values["ciou"], values["p@0.5"]
(0.5, 0.5, 0.5)
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


@dataclass(frozen=True)
class Figure:
    """`part` of a row is None where the figure does not speak of that sample."""

    says: str
    part: Callable[[Row], Part | None]
    root: bool = False  # the square root is taken last


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
    """The assigned pairs' IoU over the larger count of objects; nothing said of nothing there is 1."""
    ious, most = getattr(row, name), max(row.true_objects, row.predicted_objects)
    if ious is None:
        return None
    return (sum(ious) / most if most else float(row.error is None)), 1


def _f1(row: Row, name: str) -> Part | None:
    """Twice the pairs of IoU 0.5 or more, over all objects of both sides."""
    ious = getattr(row, name)
    return None if ious is None else (2 * sum(iou >= 0.5 for iou in ious), row.true_objects + row.predicted_objects)


def _count_exact(row: Row) -> Part | None:
    if row.true_count is None:
        return None
    return row.error is None and row.predicted_objects == row.true_count, 1


def _count_off(row: Row, power: int) -> Part | None:
    """A failure has counted nothing: it is off by the true count."""
    return None if row.true_count is None else (abs(row.predicted_objects - row.true_count) ** power, 1)


def _published(part: Callable[[Score], Part]) -> Callable[[Row], Part | None]:
    """Seg-Zero's scripts: an unreadable answer has IoU 0, and so have those that refer to it; every other failure
    is left out, and an empty union."""

    def of_row(row: Row) -> Part | None:
        score, unreadable = row.published, row.error in (*ERRORS, "lost_reference")
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

ONLY_WITHOUT_TARGET = ("target_",)  # figures that say no more than others unless some sample has no target
ONLY_SEVERAL = ("objects_",)  # or unless the truth tells several objects of a sample apart
MEANS = ("giou", "p@", "rec_", "objects_iou", "objects_box_iou", "count_exact")  # of the samples, each from 0 to 1


@dataclass(frozen=True, eq=False)
class Table:
    """What every row adds to every figure. Sums over any of its rows, drawn once or often, give the figures."""

    names: tuple[str, ...]
    columns: NDArray[np.float64]  # [N, 2F] what stands above the figures' lines, then what stands below
    speaks: NDArray[np.bool_]  # [N, F] whether the figure speaks of the row
    units: NDArray[np.intp]  # [N] numbers 0, 1, ...: rows of one dialogue share theirs

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Table":
        names = _relevant(rows)
        sums = np.zeros((len(rows), 2, len(names)))
        speaks = np.zeros((len(rows), len(names)), dtype=bool)
        for place, row in enumerate(rows):
            parts = [FIGURES[name].part(row) for name in names]
            sums[place] = np.transpose([part or (0, 0) for part in parts])
            speaks[place] = [part is not None for part in parts]
        # A record whose truth is lost counts as 0 in every mean that speaks of any other sample.
        means = np.array([name.startswith(MEANS) for name in names]) & speaks.any(axis=0)
        lost = np.outer([row.lost for row in rows], means)
        sums[:, 1][lost] = 1
        return cls(names, sums.reshape(len(rows), -1), speaks | lost, _units(rows))

    @property
    def drawn(self) -> NDArray[np.float64]:
        """The columns [U, 2F] of what is drawn when resampling: a row, or all rows of a dialogue together."""
        together = np.zeros((len(np.unique(self.units)), self.columns.shape[1]))
        np.add.at(together, self.units, self.columns)
        return together

    def take(self, places: Sequence[int]) -> "Table":
        """The table of these rows alone."""
        _, units = np.unique(self.units[places], return_inverse=True)
        return Table(self.names, self.columns[places], self.speaks[places], units)

    def only(self, names: Sequence[str]) -> "Table":
        """The table of these figures alone."""
        at = np.array([self.names.index(name) for name in names])
        return Table(tuple(names), self.columns[:, [*at, *at + len(self.names)]], self.speaks[:, at], self.units)

    def values(self) -> dict[str, float]:
        """Every figure over all rows; nan where nothing is below the line."""
        return dict(zip(self.names, self.ratios(self.columns.sum(axis=0)).tolist(), strict=True))

    def ratios(self, sums: NDArray) -> NDArray[np.float64]:
        """Figures [..., F] of sums of rows [..., 2F]."""
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


BINS = 20  # of the histogram of IoU
GROUPS = ("category", "concept", "source", "split", "round")


def summarise(rows: Iterable[Row], resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Overall figures with 95 % intervals, the same by category, concept, ..., and every failure by its code.

    `figures` is name -> {"value", "low", "high", "of"}, `of` being how many samples the figure speaks of; one that
    speaks of none is left out. `by_category` and its like are there when there are several, `by_round` for dialogues.
    """
    rows = list(rows)
    if not rows:
        raise UserError("there is nothing to summarise: no sample was scored")
    table = Table.of(rows)
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
                str(group): {
                    "samples": len(chosen),
                    "failed": sum(rows[place].error is not None for place in chosen),
                    "errors": {code: each["count"] for code, each in _errors([rows[p] for p in chosen]).items()},
                    "figures": _figures(table.take(chosen), resamples, seed),
                }
                for group, chosen in sorted(places.items(), key=lambda item: (item[0] is None, item[0]))
            }
    return summary


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
    low, high = interval(table.ratios(bootstrap(table.drawn, resamples, seed)))
    rows = zip(table.values().items(), low, high, table.speaks.sum(axis=0), strict=True)
    return {
        name: {"value": value, "low": _plain(least), "high": _plain(most), "of": int(of)}
        for (name, value), least, most, of in rows
        if not math.isnan(value)
    }


def _plain(value: float) -> float | None:
    """JSON has no nan."""
    return None if math.isnan(value) else float(value)

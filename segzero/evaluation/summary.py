"""Rows -> the numbers of a run, as plain JSON.

>>> from segzero.evaluation.metrics import Score
>>> summary = summarise([Row("a", score=Score(3, 4)), Row("b", error="not_json", score=Score(0, 4, failed=True))])
>>> summary["samples"], summary["failed"], summary["errors"]
(2, 1, {'not_json': {'count': 1, 'share': 0.5, 'ids': ['b']}})
>>> summary["figures"]["giou"]
{'value': 0.375, 'low': 0.0, 'high': 0.75, 'of': 2}
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from segzero.errors import UserError
from segzero.evaluation.figures import Table
from segzero.evaluation.scoring import Row
from segzero.evaluation.statistics import RESAMPLES, bootstrap, interval

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

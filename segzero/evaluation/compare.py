"""Comparison of two runs over the same samples: figures that differ by more than chance, samples that changed.

>>> from segzero.evaluation.metrics import Score
>>> before = [Row(str(i), score=Score(i, 10)) for i in range(10)]
>>> after = [Row(str(i), score=Score(i + 1, 10)) for i in range(10)]
>>> compared = compare_runs(before, after)
>>> {name: round(number, 3) for name, number in compared["figures"]["giou"].items()}
{'a': 0.45, 'b': 0.55, 'difference': 0.1, 'low': 0.1, 'high': 0.1, 'p': 0.002}
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segzero.errors import UserError
from segzero.evaluation.figures import Table
from segzero.evaluation.scoring import Row
from segzero.evaluation.statistics import RESAMPLES, bootstrap, interval, sign_flips

IDS_SHOWN = 3  # in a message


def compare_runs(a: Iterable[Row], b: Iterable[Row], resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Compare the figures of two runs: difference b - a with 95 % interval and p-value, and samples whose IoU changed.

    Samples are paired by id. The interval resamples pairs; the p-value swaps the runs within pairs at random. All
    rounds of a dialogue are drawn and swapped together. Each p-value is that of one figure: among twenty figures, one
    below 0.05 is expected by chance.
    """
    rows_a, rows_b = _paired(_by_id(a, "first"), _by_id(b, "second"))
    table_a, table_b = Table.from_rows(rows_a), Table.from_rows(rows_b)
    names = [name for name in table_a.names if name in table_b.names]
    table_a, table_b = table_a.only(names), replace(table_b.only(names), units=table_a.units)
    columns_a, columns_b = table_a.unit_columns, table_b.unit_columns
    values_a, values_b = table_a.ratios(columns_a.sum(axis=0)), table_b.ratios(columns_b.sum(axis=0))

    def difference(sums_a: NDArray, sums_b: NDArray) -> NDArray:
        return table_a.ratios(sums_b) - table_a.ratios(sums_a)

    sums = bootstrap(np.hstack([columns_a, columns_b]), resamples, seed)
    low, high = interval(difference(*np.hsplit(sums, 2)))
    p = sign_flips(columns_a, columns_b, difference, seed=seed)
    numbers = np.stack([values_a, values_b, values_b - values_a, low, high, p], axis=1)  # [F, 6]
    figures = {
        name: dict(zip(("a", "b", "difference", "low", "high", "p"), line, strict=True))
        for name, line in zip(names, numbers.tolist(), strict=True)
        if not np.isnan(line).any()
    }
    return {"samples": len(rows_a), "figures": figures, "changed": _changed(rows_a, rows_b)}


def _changed(a: list[Row], b: list[Row]) -> list[dict[str, Any]]:
    """Samples with another IoU or another failure: the largest change first, losses before gains of the same size."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x.score and y.score]
    changed = [
        {
            "id": x.id,
            "question": x.question,
            "a": x.score.iou,
            "b": y.score.iou,
            "change": y.score.iou - x.score.iou,
            "error_a": x.error,
            "error_b": y.error,
        }
        for x, y in pairs
        if x.score and y.score and (x.score.iou != y.score.iou or x.error != y.error)
    ]
    return sorted(changed, key=lambda line: (-abs(line["change"]), line["change"], line["id"]))


def _by_id(rows: Iterable[Row], run: str) -> dict[str, Row]:
    by_id: dict[str, Row] = {}
    for row in rows:
        if row.id in by_id:
            raise UserError(f"the {run} run has the sample {row.id!r} twice; samples are paired by id")
        by_id[row.id] = row
    if not by_id:
        raise UserError(f"the {run} run has no samples; there is nothing to compare")
    return by_id


def _paired(a: dict[str, Row], b: dict[str, Row]) -> tuple[list[Row], list[Row]]:
    for name, extra in (("first", a.keys() - b.keys()), ("second", b.keys() - a.keys())):
        if extra:
            some = ", ".join(sorted(extra)[:IDS_SHOWN]) + (", ..." if len(extra) > IDS_SHOWN else "")
            raise UserError(f"the runs are over different samples: {len(extra)} only in the {name} ({some})")
    for id, row in a.items():
        if row.question != b[id].question:
            raise UserError(f"the runs are over different samples: {id!r} asks {row.question!r} and {b[id].question!r}")
    return list(a.values()), [b[id] for id in a]

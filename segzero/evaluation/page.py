"""A run's numbers as one HTML page that needs nothing beside it.

>>> panels = {row.id: draw(row) for some in notable(rows).values() for row in some}                # doctest: +SKIP
>>> write_page("ReasonSeg test", summarise(rows), rows, panels, {"policy": "Seg-Zero-7B"})[:15]    # doctest: +SKIP
'<!doctype html>'
"""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from segzero.charts import histogram
from segzero.evaluation.figures import FIGURES
from segzero.evaluation.scoring import Row
from segzero.evaluation.summary import GROUPS
from segzero.web import page, picture, side_by_side, table, text

LEADING = ("giou", "ciou", "p@0.5", "rec_box", "rec_mask_box", "n_acc", "objects_f1", "count_exact", "count_mae")
IDS_SHOWN = 12  # of the failures of one code; metrics.json has all


def write_page(
    title: str,
    summary: Mapping[str, Any],
    rows: Sequence[Row],
    panels: Mapping[str, Image.Image],
    facts: Mapping[str, str],
) -> str:
    """The page of a `summarise`d run: `panels` are pictures by sample id, `facts` how it was run.

    The results of `coco_ap` under "average_precision" are shown as well.
    """
    figures = summary["figures"]
    leading = next((name for name in LEADING if name in figures), "")
    head = f"{text(title)} <small>{leading} {_between(figures[leading])}</small>" if leading else text(title)
    counted = f"{summary['samples']} samples, {summary['failed']} of them failed; a failure counts in every figure."
    parts = [f"<h1>{head}</h1><p>{counted}</p>", _figures(figures)]
    if sum(summary["iou_histogram"]):
        parts.append(side_by_side([histogram("Samples by IoU", summary["iou_histogram"], 0, 1, "IoU")]))
    if summary.get("average_precision"):
        found = summary["average_precision"]
        lines = ([_number(value) for value in each.values()] for each in found)
        parts += ["<h2>COCO's average precision</h2>", table(list(found[0]), lines)]
    if summary["errors"]:
        parts += ["<h2>Failures</h2>", _errors(summary["errors"])]
    parts += [_group(name, summary[f"by_{name}"]) for name in GROUPS if f"by_{name}" in summary]
    parts += [_samples(name, some, panels) for name, some in notable(rows).items()]
    return page(title, "\n".join([*parts, "<h2>How it was run</h2>", table((), facts.items())]))


def notable(rows: Sequence[Row], each: int = 4) -> dict[str, list[Row]]:
    """The best, median and worst samples by IoU, of those with a target and an answer; failures are listed elsewhere.

    Among equals, those with more pixels at stake come first.
    """
    shown = [(row.score, row) for row in rows if row.score and not row.score.failed and not row.score.true_empty]
    worst = [row for _, row in sorted(shown, key=lambda pair: (pair[0].iou, -pair[0].union, pair[1].id))]
    best = [row for _, row in sorted(shown, key=lambda pair: (-pair[0].iou, -pair[0].union, pair[1].id))]
    middle = max(0, (len(worst) - each) // 2)
    return {"best": best[:each], "median": worst[middle : middle + each], "worst": worst[:each]}


def _figures(figures: Mapping[str, Any]) -> str:
    lines = (
        (name, _number(f["value"]), f"{_number(f['low'])} to {_number(f['high'])}", str(f["of"]), FIGURES[name].says)
        for name, f in figures.items()
    )
    return table(("figure", "value", "95 % interval", "samples", "which is"), lines)


def _errors(errors: Mapping[str, Any]) -> str:
    lines = []
    for code, failed in errors.items():
        ids = ", ".join(failed["ids"][:IDS_SHOWN]) + (", ..." if failed["count"] > IDS_SHOWN else "")
        lines.append((code, str(failed["count"]), f"{failed['share']:.1%}", ids))
    return table(("code", "samples", "share", "ids"), lines)


def _group(name: str, groups: Mapping[str, Any]) -> str:
    names = [figure for figure in LEADING if any(figure in group["figures"] for group in groups.values())]
    lines = [
        (label or "none", str(group["samples"]), str(group["failed"]), *_leading(group["figures"], names))
        for label, group in groups.items()
    ]
    return f"<h2>By {name}</h2>{table((name, 'samples', 'failed', *names), lines)}"


def _leading(figures: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The values; of the first with its interval, as a table has no room for more."""
    tell = [_between, *[lambda figure: _number(figure["value"])] * (len(names) - 1)]
    return [told(figures[name]) if name in figures else "" for told, name in zip(tell, names, strict=False)]


def _samples(name: str, rows: Sequence[Row], panels: Mapping[str, Image.Image]) -> str:
    shown = [row for row in rows if row.id in panels and row.score]
    parts = [
        f"<h3>{text(row.question)} <small>{text(row.id)}, IoU {row.score.iou:.2f}</small></h3>{picture(panels[row.id])}"
        for row in shown
        if row.score
    ]
    return f"<h2>The {name} answers</h2>{side_by_side(parts)}" if parts else ""


def _between(figure: Mapping[str, Any]) -> str:
    return f"{_number(figure['value'])} ({_number(figure['low'])} to {_number(figure['high'])})"


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)

"""Two evaluations of the same dialogues, with true and with predicted history: round by round, and never as one figure.

>>> both = write_side_by_side(Path("evaluation/mr_refcoco"))                                    # doctest: +SKIP
>>> both["by_round"]["2"]["predicted"]["figures"]["giou"]                                       # doctest: +SKIP
{'value': 0.58, 'low': 0.54, 'high': 0.61, 'of': 1200}

Each is an evaluation of its own, in a folder of its own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from segzero.errors import UserError
from segzero.evaluation.figures import FIGURES, GROUPS
from segzero.evaluation.predict import HISTORIES
from segzero.evaluation.scoring import Row
from segzero.io import read_json, write_atomically, write_json
from segzero.viz.charts import Line, chart, histogram
from segzero.viz.html import page, picture, side_by_side, table, text

COMPARED_FIGURES = ("giou", "ciou", "p@0.5", "rec_box", "rec_mask_box", "n_acc", "t_acc")
Lines = Mapping[str, Mapping[str, Any]]  # round -> history -> what `summarise` says of its samples
FOLDERS = {history: f"{history}_history" for history in HISTORIES}
WHAT = """With <b>true history</b> a round is told where the objects of the rounds before it really are; with
<b>predicted history</b> it is told what the policy itself answered to them. These are two protocols: compare each with
figures of its own kind. A failure counts in every figure; a question that refers to a round whose answer could not be
read, or to what that round did not find, is a lost_reference. Intervals draw whole dialogues."""


def folder_of(out: Path, history: str | None) -> Path:
    """Where the evaluation with that history is; without any it is the folder itself."""
    return out / FOLDERS[history] if history else out


def histories_in(out: Path) -> dict[str, Path]:
    """The folders of evaluations that were begun there, by history."""
    return {history: out / name for history, name in FOLDERS.items() if (out / name / "run.json").is_file()}


def pairs_of(first: Path, second: Path) -> dict[str, tuple[Path, Path]]:
    """The folders to compare, by history; the two themselves, under no name, where neither holds histories."""
    one, other = histories_in(first), histories_in(second)
    if not one and not other:
        return {"": (first, second)}
    pairs = {history: (one[history], other[history]) for history in one if history in other}
    if not pairs:
        held = (
            f"{out}: {', '.join(name.name for name in has.values()) or 'none'}"
            for out, has in ((first, one), (second, other))
        )
        raise UserError(f"no history is in both folders ({'; '.join(held)}); name what to compare")
    return pairs


def write_side_by_side(out: Path) -> dict[str, Any]:
    """metrics.json and report.html of what is finished in the histories' folders; returns what metrics.json holds."""
    found = {
        history: _read(folder / "metrics.json")
        for history, folder in histories_in(out).items()
        if (folder / "metrics.json").is_file()
    }
    if not found:
        raise UserError(f"no finished evaluation in {out}: run the same `segzero eval` to the end")
    try:
        both = _both(found)
        html = _page(both)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        where = " and ".join(str(folder / "metrics.json") for folder in histories_in(out).values())
        raise UserError(
            f"{where} are not as they were written ({error}); `segzero eval rescore {out}` writes them anew"
        ) from error
    write_json(out / "metrics.json", both, indent=1)
    write_atomically(out / "report.html", html.encode("utf-8", "replace"))
    return both


def _both(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    first = next(iter(found.values()))
    rounds = sorted({number for metrics in found.values() for number in metrics["by_round"]}, key=_in_order)
    return {
        "benchmark": first["benchmark"],
        "histories": {history: _whole(metrics) for history, metrics in found.items()},
        "by_round": {
            number: {
                history: metrics["by_round"][number]
                for history, metrics in found.items()
                if number in metrics["by_round"]
            }
            for number in rounds
        },
        "resampling": first["resampling"],
        "published": first["published"],
        "protocol": {name: value for name, value in first["protocol"].items() if name != "history"},
    }


def _whole(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """All rounds of one history; the failures by code, without their ids."""
    kept = {name: metrics[name] for name in ("samples", "dialogues", "failed", "figures") if name in metrics}
    return kept | {"errors": {code: each["count"] for code, each in metrics["errors"].items()}}


def _page(both: Mapping[str, Any]) -> str:
    histories = list(both["histories"])
    lines = {"all": both["histories"], **both["by_round"]}
    counted = ", ".join(
        f"{history}: {whole['samples']} rounds of {whole.get('dialogues', '-')} dialogues, {whole['failed']} failed"
        for history, whole in both["histories"].items()
    )
    parts = [f"<h1>{text(both['benchmark'])} <small>by round</small></h1><p>{WHAT}</p><p>{text(counted)}.</p>"]
    if curves := _curves(both["by_round"], histories):
        parts.append(side_by_side([chart("gIoU by round", curves, "round")]))
    codes = sorted({code for whole in both["histories"].values() for code in whole["errors"]})
    parts += [_figure(name, lines, histories) for name in leading(both)]
    parts += [_failures(code, lines, histories) for code in codes]
    links = " and ".join(
        f'<a href="{FOLDERS[history]}/report.html">with {history} history</a>' for history in histories
    )
    parts.append(f"<h2>How it was run</h2><p>Answers and all figures: {links}.</p>{table((), facts_of(both).items())}")
    return page(both["benchmark"], "\n".join(parts))


def told(figure: Mapping[str, Any] | None) -> str:
    """A figure with its interval."""
    if figure is None:
        return "-"
    interval = "" if figure["low"] is None else f" ({figure['low']:.3f} to {figure['high']:.3f})"
    return f"{figure['value']:.3f}{interval}"


def leading(both: Mapping[str, Any]) -> list[str]:
    """The figures to look at first, of those that are there."""
    return [name for name in COMPARED_FIGURES if any(name in whole["figures"] for whole in both["histories"].values())]


def _figure(name: str, lines: Lines, histories: list[str]) -> str:
    rows = []
    for number, found in lines.items():
        figures = [found[history]["figures"].get(name) if history in found else None for history in histories]
        of = max((figure["of"] for figure in figures if figure), default=0)
        rows.append((number, str(of), *map(told, figures)))
    return f"<h2>{name} <small>{text(FIGURES[name].says)}</small></h2>{table(_heads(histories), rows)}"


def _failures(code: str, lines: Lines, histories: list[str]) -> str:
    rows = []
    for number, found in lines.items():
        counts = (str(found[history]["errors"].get(code, 0)) if history in found else "-" for history in histories)
        rows.append((number, str(max(one["samples"] for one in found.values())), *counts))
    return f"<h2>failed <small>{text(code)}</small></h2>{table(_heads(histories), rows)}"


def _heads(histories: list[str]) -> tuple[str, ...]:
    return "round", "samples", *(f"{history} history" for history in histories)


def _curves(by_round: Mapping[str, Any], histories: list[str]) -> list[Line]:
    curves = []
    for history in histories:
        figures = {
            number: of_round[history]["figures"].get("giou")
            for number, of_round in by_round.items()
            if history in of_round and number.isdecimal()
        }
        points = [(int(number), figure["value"]) for number, figure in figures.items() if figure]
        if len(points) > 1:
            curves.append(Line(f"{history} history", points))
    return curves


def _in_order(number: str) -> tuple[bool, int]:
    """Rounds by number; records that could not be read have none, and come last."""
    return (False, int(number)) if number.isdecimal() else (True, 0)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, "benchmark", "by_round", "figures", "errors", "resampling", "published", "protocol")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; `segzero eval rescore {path.parent}` writes it anew") from error


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


def facts_of(metrics: Mapping[str, Any]) -> dict[str, str]:
    """How figures were made, and what others published, as a page tells it."""
    facts = {name: _told(value) for name, value in metrics["protocol"].items() if value not in (None, "", {})}
    return facts | {f"published, {model}": _told(figures) for model, figures in metrics["published"].items()}


def _told(value: Any) -> str:
    return ", ".join(f"{name} {v}" for name, v in value.items() if v) if isinstance(value, dict) else str(value)

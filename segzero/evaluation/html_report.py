"""HTML pages: one of an evaluation with figures, failures and answers, and one of dialogues that shows both histories.

>>> html = evaluation_page("reasonseg_val", metrics, rows, panels)                              # doctest: +SKIP

Pages are made of the values in metrics.json and hold all their pictures, so that a single file can be sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from segzero.data.preview import true_instances
from segzero.evaluation.figures import FIGURES, GROUPS
from segzero.evaluation.scoring import Row, is_count_alone
from segzero.result import Segmentation
from segzero.sample import Sample
from segzero.viz.charts import Line, chart, histogram
from segzero.viz.html import page, picture, side_by_side, table, text

LEADING = ("giou", "ciou", "p@0.5", "rec_box", "rec_mask_box", "n_acc", "objects_f1", "count_exact", "count_mae")
LEADING_BY_ROUND = ("giou", "ciou", "p@0.5", "rec_box", "rec_mask_box", "n_acc", "t_acc")
IDS_SHOWN = 12  # failures listed per code; metrics.json has all
HISTORIES_EXPLAINED = """\
With <b>true history</b> a round is told where the objects of the rounds before it really are; with
<b>predicted history</b> it is told what the policy itself answered to them. These are two protocols: compare each with
figures of its own kind. A failure counts in every figure; a question that refers to a round whose answer could not be
read, or to what that round did not find, is a lost_reference. Intervals draw whole dialogues."""


def evaluation_page(
    title: str, metrics: Mapping[str, Any], rows: Sequence[Row], panels: Mapping[str, Image.Image]
) -> str:
    """Page of one evaluation: `metrics` as in metrics.json, and pictures of answers by sample id."""
    figures = metrics["figures"]
    leading = next((name for name in LEADING if name in figures), "")
    head = f"{text(title)} <small>{leading} {with_interval(figures[leading])}</small>" if leading else text(title)
    counted = f"{metrics['samples']} samples, {metrics['failed']} of them failed; a failure counts in every figure."
    parts = [f"<h1>{head}</h1><p>{counted}</p>", _figures_table(figures)]
    if sum(metrics["iou_histogram"]):
        parts.append(side_by_side([histogram("Samples by IoU", metrics["iou_histogram"], 0, 1, "IoU")]))
    if precisions := metrics.get("average_precision"):
        lines = ([_number(value) for value in each.values()] for each in precisions)
        parts += ["<h2>COCO's average precision</h2>", table(list(precisions[0]), lines)]
    if metrics["errors"]:
        parts += ["<h2>Failures</h2>", _failures_table(metrics["errors"])]
    parts += [_group_table(name, metrics[f"by_{name}"]) for name in GROUPS if f"by_{name}" in metrics]
    parts += [_answers(name, some, panels) for name, some in notable(rows).items()]
    return page(title, "\n".join([*parts, "<h2>How it was run</h2>", table((), _facts(metrics).items())]))


def notable(rows: Sequence[Row], each: int = 4) -> dict[str, list[Row]]:
    """Select the best, median and worst samples by IoU, of those with a target and an answer.

    Among samples of one IoU, those with a larger union come first.
    """
    shown = [(row.score, row) for row in rows if row.score and not row.score.failed and not row.score.true_empty]
    worst = [row for _, row in sorted(shown, key=lambda pair: (pair[0].iou, -pair[0].union, pair[1].id))]
    best = [row for _, row in sorted(shown, key=lambda pair: (-pair[0].iou, -pair[0].union, pair[1].id))]
    middle = max(0, (len(worst) - each) // 2)
    return {"best": best[:each], "median": worst[middle : middle + each], "worst": worst[:each]}


def answer_panel(sample: Sample, result: Segmentation) -> Image.Image:
    """Draw the question, the image, the answer and beside it the truth, unless that is a count alone."""
    truth = None if is_count_alone(sample) else true_instances(sample, sample.size)
    earlier = [str(turn.get("question")) for turn in sample.turns if isinstance(turn, dict)]
    if earlier:  # a question that refers to other rounds cannot be judged without them
        rounds = "; ".join(f"{number} {question}" for number, question in enumerate(earlier, 1))
        result = replace(result, question=f"{sample.question} (rounds before it: {rounds})")
    return result.panel(truth)


def histories_page(both: Mapping[str, Any], reports: Mapping[str, str]) -> str:
    """Page of dialogues, with a table of each leading figure: rounds down, histories across.

    `both` is as `write_side_by_side` combines it; `reports` are links to each history's own page.
    """
    histories = list(both["histories"])
    rounds = {"all": both["histories"], **both["by_round"]}
    counted = ", ".join(
        f"{history}: {whole['samples']} rounds of {whole.get('dialogues', '-')} dialogues, {whole['failed']} failed"
        for history, whole in both["histories"].items()
    )
    head = f"<h1>{text(both['benchmark'])} <small>by round</small></h1><p>{HISTORIES_EXPLAINED}</p>"
    parts = [f"{head}<p>{text(counted)}.</p>"]
    if curves := _curves(both["by_round"], histories):
        parts.append(side_by_side([chart("gIoU by round", curves, "round")]))
    parts += [_figure_by_round(name, rounds, histories) for name in leading_by_round(both)]
    codes = sorted({code for whole in both["histories"].values() for code in whole["errors"]})
    parts += [_failures_by_round(code, rounds, histories) for code in codes]
    links = " and ".join(f'<a href="{link}">with {history} history</a>' for history, link in reports.items())
    parts.append(f"<h2>How it was run</h2><p>Answers and all figures: {links}.</p>{table((), _facts(both).items())}")
    return page(both["benchmark"], "\n".join(parts))


def leading_by_round(both: Mapping[str, Any]) -> list[str]:
    """Names of the leading figures that some history has."""
    wholes = both["histories"].values()
    return [name for name in LEADING_BY_ROUND if any(name in whole["figures"] for whole in wholes)]


def with_interval(figure: Mapping[str, Any] | None) -> str:
    """A figure with its 95 % interval as text; "-" if there is none.

    >>> with_interval({"value": 0.5, "low": 0.4, "high": 0.625, "of": 10})
    '0.500 (0.400 to 0.625)'
    """
    if figure is None:
        return "-"
    interval = "" if figure["low"] is None else f" ({figure['low']:.3f} to {figure['high']:.3f})"
    return f"{figure['value']:.3f}{interval}"


def _figures_table(figures: Mapping[str, Any]) -> str:
    lines = (
        (name, _number(f["value"]), f"{_number(f['low'])} to {_number(f['high'])}", str(f["of"]), FIGURES[name].meaning)
        for name, f in figures.items()
    )
    return table(("figure", "value", "95 % interval", "samples", "which is"), lines)


def _failures_table(errors: Mapping[str, Any]) -> str:
    lines = []
    for code, failed in errors.items():
        ids = ", ".join(failed["ids"][:IDS_SHOWN]) + (", ..." if failed["count"] > IDS_SHOWN else "")
        lines.append((code, str(failed["count"]), f"{failed['share']:.1%}", ids))
    return table(("code", "samples", "share", "ids"), lines)


def _group_table(name: str, groups: Mapping[str, Any]) -> str:
    """Leading figures of each group; the first has its interval, for which the others have no room."""
    names = [figure for figure in LEADING if any(figure in group["figures"] for group in groups.values())]
    lines = []
    for label, group in groups.items():
        figures = [group["figures"].get(figure) for figure in names]
        cells = [_number(figure["value"]) if figure else "" for figure in figures]
        if figures and figures[0]:
            cells[0] = with_interval(figures[0])
        lines.append((label or "none", str(group["samples"]), str(group["failed"]), *cells))
    return f"<h2>By {name}</h2>{table((name, 'samples', 'failed', *names), lines)}"


def _answers(name: str, rows: Sequence[Row], panels: Mapping[str, Image.Image]) -> str:
    parts = [
        f"<h3>{text(row.question)} <small>{text(row.id)}, IoU {row.score.iou:.2f}</small></h3>{picture(panels[row.id])}"
        for row in rows
        if row.id in panels and row.score
    ]
    return f"<h2>The {name} answers</h2>{side_by_side(parts)}" if parts else ""


def _figure_by_round(name: str, rounds: Mapping[str, Any], histories: Sequence[str]) -> str:
    lines = []
    for number, by_history in rounds.items():
        figures = [by_history[history]["figures"].get(name) if history in by_history else None for history in histories]
        samples = max((figure["of"] for figure in figures if figure), default=0)
        lines.append((number, str(samples), *map(with_interval, figures)))
    return f"<h2>{name} <small>{text(FIGURES[name].meaning)}</small></h2>{table(_round_heads(histories), lines)}"


def _failures_by_round(code: str, rounds: Mapping[str, Any], histories: Sequence[str]) -> str:
    lines = []
    for number, by_history in rounds.items():
        counts = [
            str(by_history[history]["errors"].get(code, 0)) if history in by_history else "-" for history in histories
        ]
        lines.append((number, str(max(one["samples"] for one in by_history.values())), *counts))
    return f"<h2>failed <small>{text(code)}</small></h2>{table(_round_heads(histories), lines)}"


def _round_heads(histories: Sequence[str]) -> tuple[str, ...]:
    return "round", "samples", *(f"{history} history" for history in histories)


def _curves(by_round: Mapping[str, Any], histories: Sequence[str]) -> list[Line]:
    """gIoU over the rounds, a line for each history with two rounds or more."""
    curves = []
    for history in histories:
        figures = {
            number: by_history[history]["figures"].get("giou")
            for number, by_history in by_round.items()
            if history in by_history and number.isdecimal()
        }
        points = [(int(number), figure["value"]) for number, figure in figures.items() if figure]
        if len(points) > 1:
            curves.append(Line(f"{history} history", points))
    return curves


def _facts(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Protocol and published figures, as texts by name."""
    facts = {name: _plain_text(value) for name, value in metrics["protocol"].items() if value not in (None, "", {})}
    return facts | {f"published, {model}": _plain_text(figures) for model, figures in metrics["published"].items()}


def _plain_text(value: Any) -> str:
    return ", ".join(f"{name} {v}" for name, v in value.items() if v) if isinstance(value, dict) else str(value)


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)

"""Before and after a training: one self-contained HTML page.

It shows figures measured before and after, and the training's own log.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segzero.evaluation.compare import compare_runs
from segzero.evaluation.figures import Table
from segzero.evaluation.scoring import Row
from segzero.result import Segmentation
from segzero.training.metrics_log import NAME, read_rows
from segzero.viz.charts import Line, chart
from segzero.viz.html import page, picture, side_by_side, table, text

SMOOTH = 10  # steps
OF_KIND = "val/giou/"  # before a category's name
FIGURES = {  # name in segzero.evaluation.figures -> name on the page
    "giou": "gIoU",
    "ciou": "cIoU",
    "p@0.5": "P@0.5",
    "n_acc": "N-acc",
    "t_acc": "T-acc",
    "answered": "readable",
}


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Answers of a policy to the held-out questions, with their scores."""

    results: Sequence[Segmentation]
    rows: Sequence[Row]

    @property
    def figures(self) -> dict[str, float]:
        """The figures by their names on the page."""
        values = Table.from_rows(self.rows).values()
        return {shown: values[name] for name, shown in FIGURES.items()}

    def iou(self, place: int) -> float:
        """IoU of one answer; 0 if it has no score."""
        score = self.rows[place].score
        return score.iou if score else 0.0


def comparison(before: Evaluated, after: Evaluated) -> list[tuple[str, ...]]:
    """One row per figure: its name, before, after, the change, its 95 % interval, its p-value."""
    compared = compare_runs(before.rows, after.rows)["figures"]
    return [
        (
            shown,
            f"{compared[name]['a']:.3f}",
            f"{compared[name]['b']:.3f}",
            f"{compared[name]['difference']:+.3f}",
            f"{compared[name]['low']:+.3f} to {compared[name]['high']:+.3f}",
            f"{compared[name]['p']:.4f}",
        )
        for name, shown in FIGURES.items()
        if name in compared
    ]


COMPARED = ("before", "after", "change", "95 % interval", "p")  # the columns of a comparison


def kinds(before: Evaluated, after: Evaluated) -> list[tuple[str, ...]]:
    """One row per kind of question: its name, number of questions, gIoU before and after, change, 95 % interval."""
    lines: list[tuple[str, ...]] = []
    for category in sorted({row.category for row in after.rows}):
        first, last = ([row for row in answers.rows if row.category == category] for answers in (before, after))
        giou = compare_runs(first, last)["figures"].get("giou")
        if giou:
            change, bounds = f"{giou['difference']:+.3f}", f"{giou['low']:+.3f} to {giou['high']:+.3f}"
            lines.append((category, str(len(first)), f"{giou['a']:.3f}", f"{giou['b']:.3f}", change, bounds))
    return lines


def write_report(
    before: Evaluated,
    after: Evaluated,
    log: Sequence[Mapping[str, Any]],
    facts: Mapping[str, str],
    skill: str = "",
) -> str:
    """Write the page.

    `log` holds the rows of a run's metrics.jsonl, `facts` further lines about the run; `skill` is the kind of question
    that has a curve of its own.
    """
    first, last = before.figures["gIoU"], after.figures["gIoU"]
    changed = "".join(_change(title, place, before, after) for title, place in most_changed(before, after))
    return page(
        "SegZero: before and after training",
        f"""<h1>Held-out gIoU {first:.3f} &rarr; {last:.3f} <small>({last - first:+.3f})</small></h1>
<p>{len(after.rows)} questions about scenes that neither training has seen, answered greedily before and after.</p>
{side_by_side(curves(log, skill).values())}
{table(("on the held-out questions", *COMPARED), comparison(before, after))}
<p>Interval and p-value are of the change, over the questions: what other questions would have given. What another
training would have given is not in them.</p>
{table(("gIoU by kind of question", "questions", *COMPARED[:-1]), kinds(before, after))}
<h2>Before and after</h2>
{changed}
<h2>The run</h2>
{table((), facts.items())}""",
    )


def curves(log: Sequence[Mapping[str, Any]], skill: str = "") -> dict[str, str]:
    """Charts of reward and validation by step, as SVG, by file name; with `skill`, of this category and the others."""
    rewards = _column(log, "reward/mean")
    validated = [Line(n, _column(log, f"val/{key}")) for n, key in (("gIoU", "giou"), ("nothing-there", "n_acc"))]
    if skill:
        validated = [Line(skill, _column(log, OF_KIND + skill)), Line("other kinds", _others(log, skill))]
    drawn = {}
    if rewards:
        drawn["reward"] = chart("Reward of the answers it tries", [Line("mean of ten steps", rewards, SMOOTH)])
    if any(line.points for line in validated):
        drawn["validation"] = chart("gIoU of validation" if skill else "Validation", validated)
    return drawn


def read_log(run: Path) -> list[dict[str, Any]]:
    """The whole rows of a run's metrics.jsonl: {"step": ..., "data": {name: number}}."""
    return read_rows(run / NAME)


def most_changed(before: Evaluated, after: Evaluated, better: int = 6, worse: int = 2) -> list[tuple[str, int]]:
    """Answers whose IoU rose most, one of each kind of question first, and those whose IoU fell most."""
    gains = [after.iou(place) - before.iou(place) for place in range(len(after.rows))]
    order = sorted(range(len(gains)), key=gains.__getitem__)
    risen = [place for place in reversed(order) if gains[place] > 0]
    of_each_kind = {after.rows[place].category: place for place in reversed(risen)}.values()
    risen = sorted(of_each_kind, key=risen.index) + [place for place in risen if place not in of_each_kind]
    fallen = [place for place in order if gains[place] < 0][:worse]
    return [("Gained", place) for place in risen[:better]] + [("Lost", place) for place in fallen]


def _change(title: str, place: int, before: Evaluated, after: Evaluated) -> str:
    ious = f"IoU {before.iou(place):.2f} &rarr; {after.iou(place):.2f}"
    pictures = side_by_side(picture(each.results[place].panel()) for each in (before, after))
    question = text(after.results[place].question)
    return f"<h3>{title}: {question} <small>{ious}</small></h3>{pictures}"


def _others(log: Sequence[Mapping[str, Any]], skill: str) -> list[tuple[float, float]]:
    """Mean gIoU of the categories beside the skill, each with the same weight, by step."""
    points = []
    for row in log:
        known = [value for name, value in row["data"].items() if name.startswith(OF_KIND) and name != OF_KIND + skill]
        if known:
            points.append((row["step"], sum(known) / len(known)))
    return points


def _column(log: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(row["step"], row["data"][name]) for row in log if name in row["data"]]

"""Reference curve: the metrics of full tiny runs, and a run's own metrics set beside them.

`segzero train` with the shipped policy should look like this; what differs shows where a run went another way.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segzero import shipped
from segzero.errors import UserError
from segzero.io import read_json, write_atomically
from segzero.training.metrics_log import NAME, read_rows
from segzero.viz.charts import Line, chart
from segzero.viz.html import page, side_by_side, table, text

Rows = Sequence[Mapping[str, Any]]  # of metrics.jsonl: {"step": ..., "data": {name: number}}

NAMES = {  # metric -> words
    "reward/mean": "mean reward",
    "val/giou": "held-out gIoU",
    "val/n_acc": "held-out nothing-there accuracy",
    "answer/readable": "answers that can be read",
    "answer/thought": "answers with a thought",
    "answer/tokens": "tokens of an answer",
    "reward/flat_groups": "groups that teach nothing",
    "actor/grad_norm": "gradient norm",
    "actor/ppo_kl": "KL from the policy before the update",
    "training/rollout_probs_diff_mean": "difference of vLLM's and the trainer's probabilities",
    "timing_s/step": "seconds of a step",
}
CHARTS = ("reward/mean", "val/giou", "answer/tokens", "reward/flat_groups")
COLUMNS = ("metric", "step", "this run", "reference, least", "largest")  # of the table
MODEL = "actor_rollout_ref.model.path"
# Settings by which the numbers mean something else.
COMPARED_KEYS = (MODEL, "reward.name", "data.train_batch_size", "actor_rollout_ref.rollout.n")
AROUND = 5  # steps before and after a step that its mean is taken over; validations are taken as they are
PLACES = 4  # steps that a table shows


@dataclass(frozen=True)
class Curves:
    """Metrics of one or more runs alike."""

    name: str
    runs: tuple[Rows, ...]
    settings: Mapping[str, Any]  # keys of the configuration that decide what the numbers mean

    def at(self, metric: str, step: int) -> list[float]:
        """The metric around a step, a number for each run that has one there."""
        means = (mean_around(rows, metric, step) for rows in self.runs)
        return [mean for mean in means if mean is not None]

    @property
    def steps(self) -> int:
        """The last step that all runs have."""
        return min((int(rows[-1]["step"]) for rows in self.runs if rows), default=0)


@dataclass(frozen=True)
class Compared:
    """A metric at a step: the run's value, and the least and the largest of the reference's."""

    metric: str
    step: int
    value: float
    low: float
    high: float

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of a table."""
        return NAMES[self.metric], str(self.step), *(f"{value:.4g}" for value in (self.value, self.low, self.high))


def read_reference() -> Curves:
    """Read the reference that ships with SegZero."""
    content = read_json(shipped.reference_run_path())
    return Curves(content["name"], tuple(content["runs"]), content["settings"])


def read_run(run: Path) -> Curves:
    """Read the metrics of a run's folder."""
    rows = read_rows(run / NAME)
    if not rows:
        raise UserError(f"no metrics in {run}: no whole line in its {NAME}; name the folder of a training run")
    return Curves(str(run), (rows,), _settings(run / "config.yaml"))


def compare_curves(run: Curves, reference: Curves) -> list[Compared]:
    """Compare all metrics that both have, at a few steps up to the last that both have."""
    last = min(run.steps, reference.steps)
    if last < 1:
        raise UserError(f"{run.name} and {reference.name} have no step in common; let the run get to a step first")
    steps = sorted({max(1, round(last * place / PLACES)) for place in range(1, PLACES + 1)} | {1})
    compared = []
    for metric in NAMES:
        for step in steps:
            own, other = run.at(metric, step), reference.at(metric, step)
            if own and other:
                compared.append(Compared(metric, step, sum(own) / len(own), min(other), max(other)))
    return compared


def differences(run: Curves, reference: Curves) -> list[str]:
    """List the settings by which the numbers mean something else, a line each."""
    return [
        f"{key}: {run.settings[key]} here, {reference.settings[key]} in the reference"
        for key in COMPARED_KEYS
        if key in run.settings and key in reference.settings and _last(run, key) != _last(reference, key)
    ]


def write_comparison(out: Path, run: Curves, reference: Curves) -> Path:
    """Write the page with the table and the curves."""
    drawn = []
    for metric in CHARTS:
        lines = [Line("this run", _points(run.runs[0], metric))]
        lines += [Line(f"reference {n}", _points(rows, metric)) for n, rows in enumerate(reference.runs[:3], 1)]
        if all(line.points for line in lines[:2]):
            drawn.append(chart(NAMES[metric], lines))
    notes = "".join(f"<p>{text(line)}" for line in differences(run, reference))
    cells = [one.cells for one in compare_curves(run, reference)]
    heading = f"<h1>{text(run.name)} <small>beside {text(reference.name)}</small></h1>"
    body = f"{heading}{notes}{side_by_side(drawn)}{table(COLUMNS, cells)}"
    return write_atomically(out, page("SegZero: a run and the reference", body).encode())


def as_reference(name: str, runs: Sequence[Path]) -> bytes:
    """Write the metrics of finished runs as a reference file."""
    curves = [read_run(run) for run in runs]
    rows = [[_kept(row) for row in one.runs[0]] for one in curves]
    settings = {**curves[0].settings, MODEL: _last(curves[0], MODEL)}
    return json.dumps({"name": name, "settings": settings, "runs": rows}).encode() + b"\n"


def mean_around(rows: Rows, metric: str, step: int) -> float | None:
    """The metric's mean over the steps around one; of a validation, the last up to there."""
    if metric.startswith("val/"):
        before = [row["data"][metric] for row in rows if row["step"] <= step and metric in row["data"]]
        return before[-1] if before else None
    near = [row["data"][metric] for row in rows if abs(row["step"] - step) <= AROUND and metric in row["data"]]
    return sum(near) / len(near) if near else None


def _points(rows: Rows, metric: str) -> list[tuple[float, float]]:
    points = [(row["step"], row["data"][metric]) for row in rows if metric in row["data"]]
    if metric.startswith("val/"):
        return points
    return [(step, mean) for step, _ in points if (mean := mean_around(rows, metric, int(step))) is not None]


def _last(curves: Curves, key: str) -> Any:
    """The setting; of a path its last part, as folders differ between machines."""
    value = curves.settings[key]
    return Path(value).name if key == MODEL else value


def _settings(file: Path) -> dict[str, Any]:
    """The compared keys of a run's configuration; none if it is gone."""
    if not file.is_file():
        return {}
    from omegaconf import OmegaConf

    config = OmegaConf.load(file)
    return {key: value for key in COMPARED_KEYS if (value := OmegaConf.select(config, key)) is not None}


def _kept(row: Mapping[str, Any]) -> dict[str, Any]:
    data = {name: float(f"{value:.5g}") for name, value in row["data"].items() if name in NAMES}
    return {"step": row["step"], "data": data}

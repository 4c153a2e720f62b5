"""What a training changed, as one HTML page that needs nothing beside it.

The page shows figures that were measured just now: before, after, and the training's own log.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from segzero.charts import Line, chart
from segzero.evaluation.metrics import Score, ciou, giou, n_acc, precision_at, t_acc
from segzero.files import png_bytes
from segzero.result import Segmentation

SMOOTH = 10  # steps
PANEL_WIDTH = 700  # pixels, in the page
FIGURES = {
    "gIoU": giou,
    "cIoU": ciou,
    "P@0.5": precision_at,
    "N-acc": n_acc,
    "T-acc": t_acc,
    "readable": lambda scores: sum(not score.failed for score in scores) / len(scores),
}


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A policy's answers to the held-out questions, with their scores."""

    results: Sequence[Segmentation]
    scores: Sequence[Score]

    @property
    def figures(self) -> dict[str, float]:
        """The benchmark's figures by name."""
        return {name: float(measure(self.scores)) for name, measure in FIGURES.items()}


def write_report(
    before: Evaluated, after: Evaluated, log: Sequence[Mapping[str, Any]], facts: Mapping[str, str]
) -> str:
    """The page. `log` is the rows of a run's metrics.jsonl, `facts` what else the reader should know."""
    figures = zip(FIGURES, before.figures.values(), after.figures.values(), strict=True)
    rows = "".join(f"<tr><td>{n}<td>{a:.3f}<td>{b:.3f}<td>{b - a:+.3f}" for n, a, b in figures)
    gain = after.figures["gIoU"] - before.figures["gIoU"]
    charts = "".join(f"<figure>{drawing}</figure>" for drawing in curves(log).values())
    changed = "".join(_change(title, place, before, after) for title, place in most_changed(before, after))
    told = "".join(f"<tr><td>{escape(name)}<td>{escape(value)}" for name, value in facts.items())
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>SegZero: before and after training</title>
<style>{STYLE}</style>
<h1>Held-out gIoU {before.figures["gIoU"]:.3f} &rarr; {after.figures["gIoU"]:.3f} <small>({gain:+.3f})</small></h1>
<p>{len(after.scores)} questions about scenes that neither training has seen, answered greedily before and after.</p>
<div class="row">{charts}</div>
<table><tr><th>on the held-out questions<th>before<th>after<th>change{rows}</table>
<h2>Before and after</h2>
{changed}
<h2>The run</h2>
<table>{told}</table>
</html>
"""


def curves(log: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Reward and validation by step, as SVG, by file name."""
    rewards = _column(log, "reward/mean")
    validated = [Line(n, _column(log, f"val/{key}")) for n, key in (("gIoU", "giou"), ("nothing-there", "n_acc"))]
    drawn = {}
    if rewards:
        drawn["reward"] = chart("Reward of the answers it tries", [Line("mean of ten steps", rewards, SMOOTH)])
    if any(line.points for line in validated):
        drawn["validation"] = chart("Validation", validated)
    return drawn


def read_log(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl: {"step": ..., "data": {name: number}}."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def most_changed(before: Evaluated, after: Evaluated, better: int = 5, worse: int = 2) -> list[tuple[str, int]]:
    """Where the IoU rose most and where it fell most: what was lost is shown as well."""
    gains = [b.iou - a.iou for a, b in zip(before.scores, after.scores, strict=True)]
    order = sorted(range(len(gains)), key=gains.__getitem__)
    risen = [place for place in reversed(order) if gains[place] > 0][:better]
    fallen = [place for place in order if gains[place] < 0][:worse]
    return [("Gained", place) for place in risen] + [("Lost", place) for place in fallen]


def _change(title: str, place: int, before: Evaluated, after: Evaluated) -> str:
    ious = f"IoU {before.scores[place].iou:.2f} &rarr; {after.scores[place].iou:.2f}"
    pictures = "".join(_picture(each.results[place].panel()) for each in (before, after))
    question = escape(after.results[place].question)
    return f"<h3>{title}: {question} <small>{ious}</small></h3><div class=row>{pictures}</div>"


def _picture(image: Image.Image) -> str:
    small = image.resize((PANEL_WIDTH, round(image.height * PANEL_WIDTH / image.width)), Image.Resampling.LANCZOS)
    data = base64.b64encode(png_bytes(small)).decode()
    return f'<img alt="" src="data:image/png;base64,{data}">'


def _column(log: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(row["step"], row["data"][name]) for row in log if name in row["data"]]


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem;
  color: #171b21; background: #f5f6f8 }
h1 { font-weight: 650 } small { font-weight: 400; color: #6b7280 }
.row { display: flex; flex-wrap: wrap; gap: 16px } .row > * { flex: 1 1 420px; min-width: 0; margin: 0 }
img, svg { width: 100%; height: auto; border-radius: 10px; display: block }
table { border-collapse: collapse; background: #fff; border-radius: 10px; margin: 1rem 0 }
td, th { padding: .35rem .9rem; text-align: left; border-bottom: 1px solid #e3e7ec; vertical-align: top }
@media (prefers-color-scheme: dark) { body { color: #e8eaed; background: #14171c } table { background: #1d2127 }
  td, th { border-color: #333941 } }
"""

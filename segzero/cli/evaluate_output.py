"""Progress, tables and remarks that `segzero eval` prints."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from segzero.evaluation.predictions import Predictions

PROBLEMS_SHOWN, CHANGES_SHOWN = 5, 10
HEADLINES = ("giou", "ciou", "p@0.5", "n_acc", "t_acc", "rec_box", "rec_mask_box", "objects_f1", "count_exact")
LOG_EVERY = 60  # seconds between lines of progress where there is no terminal to draw a bar on
console = Console(highlight=False, markup=False)  # paths and questions may hold brackets


def show_problems(name: str, count: int, problems: Sequence[str]) -> None:
    """Print how many records can't be read, and the first of them."""
    console.print(f"{name}: {len(problems)} of {count} records can't be read and count as failed:", style="yellow")
    for problem in problems[:PROBLEMS_SHOWN]:
        console.print(f"  {problem}", soft_wrap=True)


@contextmanager
def progress_bar(name: str, count: int) -> Iterator[tuple[Callable[[str], None], Callable[["Predictions"], None]]]:
    """Draw a progress bar; yields a function that prints a line above it, and one that takes the predictions so far."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("gIoU {task.fields[giou]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(escape(name), total=count, giou="-")
        begin = logged = time.monotonic()
        done_before: int | None = None  # samples that an earlier call finished

        def show(predictions: "Predictions") -> None:
            nonlocal logged, done_before
            done, now = len(predictions), time.monotonic()
            done_before = done if done_before is None else done_before
            giou = "-" if math.isnan(predictions.giou) else f"{predictions.giou:.3f}"
            bar.update(task, completed=done, giou=giou)
            if not console.is_terminal and now - logged > LOG_EVERY and done > done_before:
                left = (count - done) * (now - begin) / (done - done_before)
                console.print(f"{name}: {done} of {count}, gIoU {giou}, {left / 60:.0f} min left")
                logged = now

        yield bar.console.print, show


def title(name: str, history: str | None) -> str:
    """Name of an evaluation: the benchmark and, of dialogues, the history."""
    return f"{name}, {history} history" if history else name


def show_metrics(metrics: Mapping[str, Any], folder: Path) -> None:
    """Print the main figures with their intervals, the failures, and the published figures."""
    heading = title(metrics["benchmark"], metrics["protocol"].get("history"))
    table = Table(heading, "", "95 % interval", "samples", box=None, padding=(0, 2, 0, 0))
    for name in HEADLINES:
        if figure := metrics["figures"].get(name):
            interval = "" if figure["low"] is None else f"{figure['low']:.3f} to {figure['high']:.3f}"
            table.add_row(name, f"{figure['value']:.3f}", interval, str(figure["of"]))
    console.print(table)
    for code, failed in metrics["errors"].items():
        console.print(f"failed, {code}: {failed['count']} of {metrics['samples']}")
    for model, figures in metrics["published"].items():
        values = ", ".join(f"{name} {value}" for name, value in figures.items())
        console.print(f"published, in percent: {model} {values}")
    console.print(f"in {folder}/", soft_wrap=True)


def show_rounds(both: Mapping[str, Any], folder: Path) -> None:
    """Print the leading figure by round and the failures, for each history."""
    from segzero.evaluation.html_report import leading_by_round, with_interval

    histories = list(both["histories"])
    [name, *_] = leading_by_round(both) or ["giou"]
    console.print(f"{both['benchmark']}: {name} by round")
    heads = [head for history in histories for head in (f"{history} history", "failed")]
    table = Table("round", *heads, box=None, padding=(0, 2, 0, 0))
    for number, round in {"all": both["histories"], **both["by_round"]}.items():
        cells = []
        for history in histories:
            one = round.get(history, {"figures": {}, "failed": 0, "samples": 0})
            cells += [with_interval(one["figures"].get(name)), f"{one['failed']} of {one['samples']}"]
        table.add_row(number, *cells)
    console.print(table)
    for history, whole in both["histories"].items():
        for code, count in whole["errors"].items():
            console.print(f"failed with {history} history, {code}: {count} of {whole['samples']}")
    console.print(f"side by side in {folder}/", soft_wrap=True)


def show_comparison(comparison: Mapping[str, Any], first: Path, second: Path) -> None:
    """Print the figures of two evaluations, their differences, and the samples that changed most."""
    table = Table(f"{comparison['samples']} samples", str(first), str(second), "change", "95 % interval", "p", box=None)
    for name, line in comparison["figures"].items():
        table.add_row(
            name,
            f"{line['a']:.4f}",
            f"{line['b']:.4f}",
            f"{line['difference']:+.4f}",
            f"{line['low']:+.4f} to {line['high']:+.4f}",
            f"{line['p']:.3f}",
        )
    console.print(table)
    console.print(f"{len(comparison['changed'])} samples changed")
    for line in comparison["changed"][:CHANGES_SHOWN]:
        errors = " -> ".join(str(line[name] or "answered") for name in ("error_a", "error_b"))
        note = "" if line["error_a"] == line["error_b"] else f" ({errors})"
        console.print(f"  {line['a']:.3f} -> {line['b']:.3f}{note}  {line['id']}: {line['question']}")

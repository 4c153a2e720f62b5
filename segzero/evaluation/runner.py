"""One benchmark from its data to its figures. Stopped at any moment, the same call goes on where it was.

>>> with started(models, workers=1) as (answer_all, settings):                             # doctest: +SKIP
...     metrics = evaluate(task, Path("out"), answer_all, settings, batch=16)
>>> metrics["figures"]["giou"]                                                             # doctest: +SKIP
{'value': 0.62, 'low': 0.57, 'high': 0.67, 'of': 200}
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from segzero.errors import UserError
from segzero.evaluation.answering import Item, comparable
from segzero.evaluation.benchmarks import Benchmark, Task, Unreadable
from segzero.evaluation.outputs import read_run, write_json, write_metrics
from segzero.evaluation.prediction import Prediction
from segzero.evaluation.scoring import score_sample
from segzero.evaluation.store import NAME, Predictions

AnswerAll = Callable[[Iterator[list[Item]]], Iterator[list[Prediction]]]


def evaluate(
    task: Task,
    out: Path,
    answer_all: AnswerAll,
    settings: Mapping[str, Any],
    batch: int = 16,
    tell: Callable[[str], None] = lambda line: None,
    progress: Callable[[Predictions], None] = lambda predictions: None,
) -> dict[str, Any]:
    """Answer what has no line in predictions.jsonl yet, then score all lines; returns what metrics.json holds.

    `tell` gets lines for the user, `progress` the predictions whenever there are more of them.
    """
    _begin(out, task, settings)
    with Predictions.open(out / NAME) as predictions:
        if predictions.torn:
            tell(f"{predictions.path}: dropped an unfinished last line of {predictions.torn} bytes")
        if len(predictions):
            tell(f"{len(predictions)} samples are finished already; going on")
        progress(predictions)
        for done in answer_all(_chunks(task, predictions, batch)):
            predictions.append(done)
            progress(predictions)
        return write_metrics(out, task, predictions, dict(settings))


def rescore(out: Path, task: Task | None = None) -> dict[str, Any]:
    """The figures of finished predictions anew; nothing is asked or drawn. `task`: its data, where they have moved."""
    run = read_run(out)
    with Predictions.open(out / NAME, write=False) as predictions:
        return write_metrics(out, task or task_of(run, out), predictions, run["settings"])


def task_of(run: Mapping[str, Any], out: Path) -> Task:
    """The benchmark and data that run.json names."""
    try:
        told = dict(run["task"])
        return Task(Benchmark(**told.pop("benchmark")), **told)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{out / 'run.json'} names no benchmark and data; evaluate into another --out") from error


def survey(task: Task) -> tuple[int, list[str]]:
    """How many samples there are, and what is wrong with those that can't be read.

    Before a model is loaded: a truth that can't be scored is refused here, and not when the answers are there.
    """
    count, problems = 0, []
    for item in task.read():
        count += 1
        if isinstance(item, Unreadable):
            problems.append(item.problem)
        else:
            score_sample(item, ())
    return count, problems


def _begin(out: Path, task: Task, settings: Mapping[str, Any]) -> None:
    """Write run.json, or see that it says the same."""
    benchmark = task.benchmark
    what: dict[str, Any] = {"benchmark": benchmark.name, "reader": benchmark.reader, "limit": task.limit}
    what |= {"options": dict(benchmark.options), "keep": dict(benchmark.keep)}
    if not (out / "run.json").exists():
        if (out / NAME).exists():
            raise UserError(f"{out} holds a {NAME} without its run.json; choose another --out")
        write_json(out / "run.json", {"what": what, "settings": dict(settings), "task": asdict(task)})
        return
    run = read_run(out)
    before, now = ({**run.get("what", {}), **comparable(run.get("settings", {}))}, what | comparable(settings))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{out} holds an evaluation with other settings: its {name} is {before.get(name)}, now it is "
                f"{now.get(name)}; choose another --out"
            )


def _chunks(task: Task, predictions: Predictions, batch: int) -> Iterator[list[Item]]:
    todo = (item for item in task.read() if not _is_done(item, predictions))
    while chunk := list(islice(todo, batch)):
        yield chunk


def _is_done(item: Item, predictions: Predictions) -> bool:
    return item.id in predictions and predictions.of(item) is not None

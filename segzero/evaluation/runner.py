"""One benchmark from its data to its figures. Stopped at any moment, the same call goes on where it was.

>>> with started(models, workers=1) as (answer_all, settings):                             # doctest: +SKIP
...     metrics = evaluate(task, Path("out"), answer_all, settings, batch=16)
>>> metrics["figures"]["giou"]                                                             # doctest: +SKIP
{'value': 0.62, 'low': 0.57, 'high': 0.67, 'of': 200}
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from segzero.errors import UserError
from segzero.evaluation.artifacts import read_run, write_metrics
from segzero.evaluation.benchmarks import Benchmark, Item, Task, Unreadable
from segzero.evaluation.html_report import folder_of, histories_in, write_side_by_side
from segzero.evaluation.predict import PREDICTED, Models, answer, comparable
from segzero.evaluation.predictions import NAME, Prediction, Predictions
from segzero.evaluation.scoring import score_sample
from segzero.evaluation.typed import typed
from segzero.io import write_json
from segzero.sample import Sample

AnswerAll = Callable[[Iterator[list[Item]], str | None], Iterator[list[Prediction]]]  # chunks, and their history
LONGEST = 32  # samples for each of a chunk's dialogues


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

    A task with a history is evaluated in that history's folder in `out`, and both are set side by side.
    `tell` gets lines for the user, `progress` the predictions whenever there are more of them.
    """
    folder = folder_of(out, task.history)
    _begin(out, folder, task, settings)
    with Predictions.open(folder / NAME) as predictions:
        if predictions.torn:
            tell(f"{predictions.path}: dropped an unfinished last line of {predictions.torn} bytes")
        if len(predictions):
            tell(f"{len(predictions)} samples are finished already; going on")
        progress(predictions)
        for done in answer_all(_chunks(task, predictions, batch), task.history):
            predictions.append(done)
            progress(predictions)
        metrics = write_metrics(folder, task, predictions, dict(settings))
    if task.history:
        write_side_by_side(out)
    return metrics


def rescore(out: Path, task: Task | None = None) -> dict[str, Any]:
    """The figures of finished predictions anew; nothing is asked or drawn. `task`: its data, where they have moved.

    Of dialogues, `out` holds one evaluation for each history, or is one of them.
    """
    if histories := histories_in(out):
        for folder in histories.values():
            _rescore(folder, task)
        return write_side_by_side(out)
    metrics = _rescore(out, task)
    if out.absolute() in histories_in(out.absolute().parent).values():
        write_side_by_side(out.absolute().parent)
    return metrics


def _rescore(out: Path, task: Task | None) -> dict[str, Any]:
    run = read_run(out)
    told = task_of(run, out)
    with Predictions.open(out / NAME, write=False) as predictions:
        task = told if task is None else replace(task, history=told.history)
        return write_metrics(out, task, predictions, run["settings"])


def task_of(run: Mapping[str, Any], out: Path) -> Task:
    """The benchmark and data that run.json names."""
    try:
        told = dict(run["task"])
        task = typed(Task, told | {"benchmark": typed(Benchmark, told["benchmark"])})
        if task.limit is not None and task.limit < 1:
            raise ValueError("a limit below 1")
        return task
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{out / 'run.json'} names no benchmark and data; evaluate into another --out") from error


class Survey(NamedTuple):
    """What there is to evaluate."""

    samples: int  # and records that should have been one
    problems: list[str]  # what is wrong with those that can't be read
    dialogues: bool  # some sample has rounds before it


def survey(task: Task) -> Survey:
    """Look through the data before a model is loaded: a truth that can't be scored is refused here."""
    count, problems, dialogues = 0, [], False
    for item in task.read():
        count += 1
        if isinstance(item, Unreadable):
            problems.append(item.problem)
        else:
            dialogues = dialogues or bool(item.turns)
            score_sample(item, ())
    return Survey(count, problems, dialogues)


def _begin(out: Path, folder: Path, task: Task, settings: Mapping[str, Any]) -> None:
    """Write run.json, or see that it says the same; so must that of the same rounds with the other history."""
    benchmark = task.benchmark
    what: dict[str, Any] = {"benchmark": benchmark.name, "reader": benchmark.reader, "limit": task.limit}
    what |= {"options": dict(benchmark.options), "keep": dict(benchmark.keep)}
    begun = histories_in(out)
    if begun and not task.history:
        raise UserError(f"{out} holds an evaluation of dialogues; choose another --out")
    if task.history and (out / "run.json").exists():
        raise UserError(f"{out} holds an evaluation that knows of no history; choose another --out")
    for other in dict.fromkeys([folder, *begun.values()]):
        if (other / "run.json").exists():
            _compare(other, what | comparable(settings))
    if not (folder / "run.json").exists():
        if (folder / NAME).exists():
            raise UserError(f"{folder} holds a {NAME} without its run.json; choose another --out")
        write_json(folder / "run.json", {"what": what, "settings": dict(settings), "task": asdict(task)}, indent=1)


def _compare(folder: Path, now: Mapping[str, Any]) -> None:
    run = read_run(folder)
    before = {**run["what"], **comparable(run["settings"])}
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{folder} holds an evaluation with other settings: its {name} is {before.get(name)}, now it is "
                f"{now.get(name)}; choose another --out"
            )


def _chunks(task: Task, predictions: Predictions, batch: int) -> Iterator[list[Item]]:
    """So many samples at a time; with predicted history, so many dialogues."""
    chunk: list[Item] = []
    begun: set[Hashable] = set()
    for item in task.read():
        if _is_done(item, predictions):
            continue
        name = _dialogue(item) if task.history == PREDICTED else item.id
        if (len(begun) == batch and name not in begun) or len(chunk) == batch * LONGEST:
            yield chunk
            chunk, begun = [], set()
        chunk.append(item)
        begun.add(name)
    if chunk:
        yield chunk


def _dialogue(item: Item) -> Hashable:
    """The same for rounds that begin with the same question about the same image."""
    if not isinstance(item, Sample) or not item.turns:
        return getattr(item, "image", item.id), getattr(item, "question", "")
    first = item.turns[0]
    return item.image, str(first.get("question", "")) if isinstance(first, dict) else ""


def _is_done(item: Item, predictions: Predictions) -> bool:
    return item.id in predictions and predictions.of(item) is not None


QUEUED = 2  # chunks of a worker, so that it never waits for the next


@contextmanager
def started(models: Models, workers: int = 1) -> Iterator[tuple[AnswerAll, dict[str, Any]]]:
    """Load the models, once for each worker; yields what answers chunks of samples, and the settings."""
    if workers > 1:
        with _with_ray(models, workers) as both:
            yield both
        return
    pipeline, settings = models.load()
    try:
        yield lambda chunks, history: (answer(pipeline, chunk, history) for chunk in chunks), settings
    finally:
        pipeline.policy.close()


class _Worker:
    """A process of Ray's with its own models."""

    def load(self, models: Models) -> dict[str, Any]:
        """Load them; what goes wrong is the caller's to read."""
        self.pipeline, settings = models.load()
        return settings

    def answer(self, items: Sequence[Item], history: str | None) -> list[Prediction]:
        """A chunk."""
        return answer(self.pipeline, items, history)


@contextmanager
def _with_ray(models: Models, workers: int) -> Iterator[tuple[AnswerAll, dict[str, Any]]]:
    try:
        import ray
    except ImportError as error:
        raise UserError("several workers need Ray; pip install ray, or leave --workers out") from error
    import torch

    gpus = torch.cuda.device_count()
    share = max(1, gpus // workers) if gpus >= workers else gpus / workers
    # A Ray of our own, not whatever cluster happens to run on this machine.
    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        actor = ray.remote(num_cpus=1, num_gpus=share)(_Worker)
        actors = [actor.remote() for _ in range(workers)]
        settings = _get([each.load.remote(models) for each in actors])[0]
        yield lambda chunks, history: _share_out(actors, chunks, history), settings
    finally:
        ray.shutdown()


def _share_out(actors: Sequence[Any], chunks: Iterator[list[Item]], history: str | None) -> Iterator[list[Prediction]]:
    import ray

    running: dict[Any, Any] = {}  # what comes -> who makes it

    def give(actor: Any) -> None:
        chunk = next(chunks, None)
        if chunk is not None:
            running[actor.answer.remote(chunk, history)] = actor

    for actor in [*actors] * QUEUED:
        give(actor)
    while running:
        [ready], _ = ray.wait(list(running))
        give(running.pop(ready))
        yield _get(ready)


def _get(what: Any) -> Any:
    """What a worker returns; a user's mistake that it noticed is one here too."""
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return ray.get(what)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise
    except RayActorError as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(f"a worker died, maybe for want of memory; the same command goes on: {why}") from error

"""Evaluation of one benchmark, from its records to its report. Stopped at any moment, the same call goes on.

>>> records = Records(get_benchmark("reasonseg_val").find("data"))                         # doctest: +SKIP
>>> with start_workers(models) as (answer_all, settings):                                  # doctest: +SKIP
...     metrics = evaluate(records, Path("out"), answer_all, settings)
>>> metrics["figures"]["giou"]                                                             # doctest: +SKIP
{'value': 0.62, 'low': 0.57, 'high': 0.67, 'of': 200}

Files in the folder of an evaluation:

run.json            the settings; a call that goes on must have the same
predictions.jsonl   a line for each sample, written as soon as it is answered
scores.jsonl        a row of scores for each sample, for `segzero eval compare`
metrics.json        the figures, and how they were made
report.html         figures, failures and some answers on one page
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PIL import Image

from segzero.errors import UserError
from segzero.evaluation.benchmarks import Benchmark, Record, Records, Task
from segzero.evaluation.coco_ap import coco_ap
from segzero.evaluation.figures import summarise
from segzero.evaluation.html_report import answer_panel, evaluation_page, notable
from segzero.evaluation.predict import HISTORIES, PREDICTED, Loader, answer
from segzero.evaluation.predictions import PREDICTIONS, Prediction, Predictions
from segzero.evaluation.provenance import commit, comparable, versions
from segzero.evaluation.scoring import PredictedObject, Row, write_rows
from segzero.evaluation.side_by_side import folder_of, histories_in, write_side_by_side
from segzero.evaluation.typed import typed
from segzero.io import read_json, write_atomically, write_json
from segzero.sample import Sample

Answered = list[tuple[Prediction, Row]]
AnswerAll = Callable[[Iterator[list[Record]], str | None], Iterator[Answered]]  # takes chunks, and their history
ROUNDS_PER_DIALOGUE = 32  # samples in a chunk of dialogues, at most, for each of its dialogues
QUEUED_CHUNKS = 2  # per worker, so that it never waits for its next one


def evaluate(
    records: Records,
    out: Path,
    answer_all: AnswerAll,
    settings: Mapping[str, Any],
    batch: int = 16,
    history: str | None = None,
    print_line: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[Predictions], None] = lambda predictions: None,
) -> dict[str, Any]:
    """Answer every record that has no line in predictions.jsonl yet; returns the content of metrics.json.

    Each record is read and scored once. An evaluation of dialogues has a `history` and a folder for it in `out`, where
    both histories are then shown side by side. `print_line` gets remarks for the user, `on_progress` the predictions
    whenever there are more of them.
    """
    folder = folder_of(out, history)
    _begin(out, folder, records.task, history, settings)
    with Predictions.open(folder / PREDICTIONS) as predictions:
        if predictions.torn:
            print_line(f"{predictions.path}: dropped an unfinished last line of {predictions.torn} bytes")
        if len(predictions):
            print_line(f"{len(predictions)} samples are finished already; going on")
        on_progress(predictions)
        ids: list[str] = []  # in the data's order; workers may answer in another one
        rows: dict[str, Row] = {}
        unanswered = _score_answered(records, predictions, ids, rows)
        for answered in answer_all(_chunks(unanswered, batch, by_dialogue=history == PREDICTED), history):
            predictions.append(prediction for prediction, _ in answered)
            rows |= {row.id: row for _, row in answered}
            on_progress(predictions)
        predictions.check_count(len(ids))
        metrics = _write_results(folder, records, predictions, [rows[id] for id in ids], settings, history)
    if history:
        write_side_by_side(out)
    return metrics


def rescore(out: Path, data: Path | None = None) -> dict[str, Any]:
    """Score finished predictions anew, without models. `data`: the data root, if the data have moved.

    Of dialogues, `out` holds an evaluation for each history, or is one of those.
    """
    if histories := histories_in(out):
        for folder in histories.values():
            _rescore(folder, data)
        return write_side_by_side(out)
    metrics = _rescore(out, data)
    if out.absolute() in histories_in(out.absolute().parent).values():
        write_side_by_side(out.absolute().parent)
    return metrics


def _rescore(folder: Path, data: Path | None) -> dict[str, Any]:
    run = read_run(folder)
    task, history = task_of(run, folder)
    if data is not None:
        task = replace(task.benchmark.find(data), limit=task.limit)
    records = Records(task)
    with Predictions.open(folder / PREDICTIONS, write=False) as predictions:
        rows = list(predictions.rows(records))
        return _write_results(folder, records, predictions, rows, run["settings"], history)


def _score_answered(
    records: Iterable[Record], predictions: Predictions, ids: list[str], rows: dict[str, Row]
) -> Iterator[Record]:
    """Yield the records without a line; on the way, note all ids and score the records that have one."""
    for record in records:
        ids.append(record.id)
        if record.id in predictions:
            rows[record.id] = predictions.score(record)
        else:
            yield record


def _chunks(records: Iterable[Record], batch: int, by_dialogue: bool) -> Iterator[list[Record]]:
    """Group the records by `batch` samples, or by `batch` dialogues."""
    chunk: list[Record] = []
    names: set[Hashable] = set()
    for record in records:
        name = _dialogue(record) if by_dialogue else record.id
        if (len(names) == batch and name not in names) or len(chunk) == batch * ROUNDS_PER_DIALOGUE:
            yield chunk
            chunk, names = [], set()
        chunk.append(record)
        names.add(name)
    if chunk:
        yield chunk


def _dialogue(record: Record) -> Hashable:
    """Name for all rounds that begin with the same question about the same image."""
    if not isinstance(record, Sample) or not record.turns:
        return getattr(record, "image", record.id), getattr(record, "question", "")
    first = record.turns[0]
    return record.image, str(first.get("question", "")) if isinstance(first, dict) else ""


def _begin(out: Path, folder: Path, task: Task, history: str | None, settings: Mapping[str, Any]) -> None:
    """Write run.json, or refuse settings other than those in it; the other history's run.json must agree too."""
    benchmark = task.benchmark
    what: dict[str, Any] = {"benchmark": benchmark.name, "reader": benchmark.reader, "limit": task.limit}
    what |= {"options": dict(benchmark.options), "keep": dict(benchmark.keep)}
    begun = histories_in(out)
    if begun and not history:
        raise UserError(f"{out} holds an evaluation of dialogues; choose another --out")
    if history and (out / "run.json").exists():
        raise UserError(f"{out} holds an evaluation that knows of no history; choose another --out")
    for other in dict.fromkeys([folder, *begun.values()]):
        if (other / "run.json").exists():
            _refuse_other_settings(other, what | comparable(settings))
    if not (folder / "run.json").exists():
        if (folder / PREDICTIONS).exists():
            raise UserError(f"{folder} holds a {PREDICTIONS} without its run.json; choose another --out")
        run = {"what": what, "settings": dict(settings), "task": asdict(task) | {"history": history}}
        write_json(folder / "run.json", run, indent=1)


def _refuse_other_settings(folder: Path, now: Mapping[str, Any]) -> None:
    run = read_run(folder)
    before = {**run["what"], **comparable(run["settings"])}
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{folder} holds an evaluation with other settings: its {name} is {before.get(name)}, now it is "
                f"{now.get(name)}; choose another --out"
            )


def read_run(folder: Path) -> dict[str, Any]:
    """Read run.json, the settings that an evaluation was begun with."""
    path = folder / "run.json"
    try:
        run = read_json(path, "what", "settings", "task")
        if not all(isinstance(part, dict) for part in run.values()):
            raise ValueError("its settings have no names")
        return run
    except FileNotFoundError:
        raise UserError(f"no evaluation in {folder}: there is no run.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; evaluate into another --out") from error


def task_of(run: Mapping[str, Any], folder: Path) -> tuple[Task, str | None]:
    """Restore the benchmark with its data, and the history, from the content of run.json."""
    try:
        values = dict(run["task"])
        history = values.pop("history", None)
        task = typed(Task, values | {"benchmark": typed(Benchmark, values["benchmark"])})
        if task.limit is not None and task.limit < 1:
            raise ValueError("a limit below 1")
        if history not in (None, *HISTORIES):
            raise ValueError("an unknown history")
        return task, history
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'run.json'} names no benchmark and data; evaluate into another --out") from error


def _write_results(
    folder: Path,
    records: Records,
    predictions: Predictions,
    rows: Sequence[Row],
    settings: Mapping[str, Any],
    history: str | None,
) -> dict[str, Any]:
    """Write scores.jsonl, metrics.json and report.html; returns the metrics."""
    write_rows(folder, rows)
    task, benchmark = records.task, records.task.benchmark
    metrics = {
        "benchmark": benchmark.name,
        **summarise(rows),
        "published": {model: dict(figures) for model, figures in benchmark.published.items()},
        "protocol": {
            **settings,
            "reader": benchmark.reader,
            "options": {**benchmark.options, **benchmark.keep},
            "limit": task.limit,
            **({"history": history} if history else {}),
            "level": benchmark.level,
            "ignored_pixels": benchmark.ignore,
            "note": benchmark.note,
            "commit": commit(),
            "versions": versions(),
        },
    }
    if benchmark.level == "category":
        metrics["average_precision"] = _average_precision(records, predictions)
    write_json(folder / "metrics.json", metrics, indent=1)
    title = f"{benchmark.name}, {history} history" if history else benchmark.name
    html = evaluation_page(title, metrics, rows, _panels(records, predictions, rows))
    write_atomically(folder / "report.html", html.encode("utf-8", "replace"))
    return metrics


def _average_precision(records: Iterable[Record], predictions: Predictions) -> list[dict[str, Any]]:
    """AP of the boxes with VisionReasoner's score, and of boxes and masks with the segmenter's.

    Answers that are one mask for everything have no single objects, and no AP.
    """
    pairs: list[tuple[Sample, Sequence[PredictedObject]]] = []
    for record in records:
        if isinstance(record, Sample):
            prediction = predictions.find(record)
            if prediction.undivided:
                return []
            without_image = replace(record, image="")  # all samples are in memory here
            pairs.append((without_image, () if prediction.error else prediction.objects))
    with_masks = all(true.rle is not None for sample, _ in pairs for true in sample.objects)
    wanted = [("bbox", "area"), ("bbox", "segmenter"), *([("segm", "segmenter")] if with_masks else [])]
    return [coco_ap(pairs, kind, score) for kind, score in wanted]


def _panels(records: Iterable[Record], predictions: Predictions, rows: Sequence[Row]) -> dict[str, Image.Image]:
    """Draw the answers that the report shows, by sample id."""
    shown = {row.id for some in notable(rows).values() for row in some}
    panels: dict[str, Image.Image] = {}
    for record in records:
        if len(panels) == len(shown):
            break
        if record.id in shown and isinstance(record, Sample):
            panels[record.id] = answer_panel(record, predictions.find(record).result(record, record.open()))
    return panels


@contextmanager
def start_workers(models: Loader, workers: int = 1) -> Iterator[tuple[AnswerAll, dict[str, Any]]]:
    """Load the models, in this process or in each of several workers.

    Yields a function that answers chunks of records, and the settings of the models.
    """
    if workers > 1:
        with _ray_workers(models, workers) as answer_all_and_settings:
            yield answer_all_and_settings
        return
    pipeline, settings = models.load()
    try:
        yield lambda chunks, history: (answer(pipeline, chunk, history) for chunk in chunks), settings
    finally:
        pipeline.close()


class _Worker:
    """A Ray process with its own models."""

    def load(self, models: Loader) -> dict[str, Any]:
        """Load the models; returns their settings."""
        self.pipeline, settings = models.load()
        return settings

    def answer(self, records: Sequence[Record], history: str | None) -> Answered:
        """Predict and score a chunk."""
        return answer(self.pipeline, records, history)


@contextmanager
def _ray_workers(models: Loader, workers: int) -> Iterator[tuple[AnswerAll, dict[str, Any]]]:
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


def _share_out(actors: Sequence[Any], chunks: Iterator[list[Record]], history: str | None) -> Iterator[Answered]:
    """Give each worker its next chunks, and yield the answers as they come."""
    import ray

    running: dict[Any, Any] = {}  # Ray's reference to an answer -> the worker that makes it

    def give(actor: Any) -> None:
        chunk = next(chunks, None)
        if chunk is not None:
            running[actor.answer.remote(chunk, history)] = actor

    for actor in [*actors] * QUEUED_CHUNKS:
        give(actor)
    while running:
        [ready], _ = ray.wait(list(running))
        give(running.pop(ready))
        yield _get(ready)


def _get(reference: Any) -> Any:
    """Wait for what a worker returns; a UserError there is raised here as one."""
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise
    except RayActorError as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(f"a worker died, maybe for want of memory; the same command goes on: {why}") from error

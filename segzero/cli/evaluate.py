"""`segzero eval`: run benchmarks, score finished runs anew, compare two of them."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from segzero.cli.options import (
    DeviceOption,
    FrameOption,
    PolicyBackendOption,
    PolicyOption,
    PromptOption,
    SegmenterBackendOption,
    SegmenterOption,
    policy_or_shipped,
    segmenter_or_shipped,
)
from segzero.errors import UserError, unknown_name

app = typer.Typer(help="Benchmarks: answers, masks, figures one can publish.", no_args_is_help=True)
console = Console(highlight=False, markup=False)  # paths and questions may hold brackets

LAYOUTS = ("segzero", "seg_zero")
ASKED = {"true": ("true",), "predicted": ("predicted",), "both": ("true", "predicted")}  # --history
SHOWN = 5  # problems of the data, and samples that changed
HEADLINES = ("giou", "ciou", "p@0.5", "n_acc", "t_acc", "rec_box", "rec_mask_box", "objects_f1", "count_exact")
LOG_EVERY = 60  # seconds, where there is no terminal to draw a bar on
DEFAULT_CACHE = Path("~/.cache/segzero/evaluation")


@app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    benchmark: Annotated[
        str | None, typer.Option(help="A benchmark, several with commas, or all those whose data are in --data.")
    ] = None,
    data: Annotated[Path, typer.Option(help="The folder below which the data are; for `own`, the data.")] = Path(),
    format: Annotated[
        str | None,
        typer.Option(help="Of own data: folder, coco, refer, ...: the formats of docs/data.md."),
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="The format's own: split=val, images=...")] = None,
    input_json: Annotated[Path | None, typer.Option("--input_json", "--input-json", help="ConverSeg's JSON.")] = None,
    hf_dataset: Annotated[
        str | None, typer.Option("--hf_dataset", "--hf-dataset", help="A data set with ConverSeg's columns.")
    ] = None,
    hf_splits: Annotated[
        str, typer.Option("--hf_splits", "--hf-splits", help="Its splits, with commas.")
    ] = "sam_seeded,human_annotated",
    hf_config: Annotated[
        str, typer.Option("--hf_config", "--hf-config", help="Its configuration; there is one.")
    ] = "default",
    policy: PolicyOption = None,
    segmenter: SegmenterOption = None,
    policy_backend: PolicyBackendOption = "auto",
    segmenter_backend: SegmenterBackendOption = "auto",
    device: DeviceOption = "auto",
    frame: FrameOption = None,
    prompt: PromptOption = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 2048,
    batch: Annotated[int, typer.Option(help="Samples at once.", min=1)] = 16,
    workers: Annotated[int, typer.Option(help="Processes with models of their own, through Ray.", min=1)] = 1,
    limit: Annotated[int | None, typer.Option(help="Only the first samples, to try things out.", min=1)] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for each benchmark goes here.")] = Path(
        "evaluation"
    ),
    cache: Annotated[Path, typer.Option(help="Where answers and masks are kept.")] = DEFAULT_CACHE,
    history: Annotated[
        str | None,
        typer.Option(help="Of dialogues, what earlier rounds are: true, predicted or both (default), side by side."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse data of which a record can't be read.")] = False,
    save_preds: Annotated[
        Path | None, typer.Option("--save_preds", "--save-preds", help="ConverSeg's pictures go here.")
    ] = None,
    output: Annotated[str, typer.Option(help="seg_zero adds output_0.json as its scripts read it.")] = "segzero",
) -> None:
    """Evaluate a policy and a segmenter. Stopped, the same command goes on where it was."""
    if context.invoked_subcommand is not None:
        return
    if history is not None and history not in ASKED:
        raise unknown_name("history", history, list(ASKED))
    if output not in LAYOUTS:
        raise unknown_name("output", output, list(LAYOUTS))
    from segzero.evaluation.exports import file_stem
    from segzero.evaluation.html_report import folder_of, write_side_by_side
    from segzero.evaluation.predict import Models
    from segzero.evaluation.runner import started, survey

    if hf_config != "default":
        raise UserError(f"--hf_config {hf_config}: only the configuration 'default' is read")
    tasks = _tasks(benchmark, data, input_json, hf_dataset, hf_splits)
    if format or option:
        tasks = [_in_format(task, format, option or []) for task in tasks]
    tasks = [replace(task, limit=limit) for task in tasks]
    counts: list[int] = []
    histories: list[tuple[str | None, ...]] = []  # of each task
    for task in tasks:
        count, problems, dialogues = survey(task)
        _tell_problems(task.benchmark.name, count, problems, strict)
        _tell_count(task, count)
        counts.append(count)
        histories.append(ASKED[history or "both"] if dialogues else (None,))
    if history is not None and not any(map(any, histories)):
        names = ", ".join(task.benchmark.name for task in tasks)
        raise UserError(f"--history {history}: no sample of {names} has earlier rounds; leave --history out")
    models = Models(
        policy_or_shipped(policy),
        segmenter_or_shipped(segmenter),
        policy_backend,
        segmenter_backend,
        device,
        frame,
        prompt,
        max_tokens,
        batch,
        cache.expanduser(),
    )
    with started(models, workers) as (answer_all, settings):
        for task, count, wanted in zip(tasks, counts, histories, strict=True):
            for each in wanted:
                where = out / file_stem(task.benchmark.name)
                _evaluate(replace(task, history=each), count, where, answer_all, settings, batch)
            if any(wanted):
                where = out / file_stem(task.benchmark.name)
                _show_rounds(write_side_by_side(where), where)
    for task, wanted in zip(tasks, histories, strict=True):
        for each in wanted:
            folder = folder_of(out / file_stem(task.benchmark.name), each)
            several = len(tasks) > 1 or len(wanted) > 1
            pictures = save_preds / folder.relative_to(out) if save_preds and several else save_preds
            _write_extras(task, folder, pictures, output)


@app.command()
def rescore(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished evaluation.")],
    data: Annotated[Path | None, typer.Option(help="Where the data are now, if they have moved.")] = None,
) -> None:
    """Score finished predictions anew: no model is asked."""
    from segzero.evaluation.artifacts import read_run
    from segzero.evaluation.html_report import histories_in
    from segzero.evaluation.runner import rescore as score_anew
    from segzero.evaluation.runner import task_of

    histories = list(histories_in(folder).values())
    task = None
    if data is not None:
        [told, *_] = histories or [folder]
        task = task_of(read_run(told), told)
        task = replace(task.benchmark.find(data), limit=task.limit)
    (_show_rounds if histories else _show)(score_anew(folder, task), folder)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="The folder of one evaluation.")],
    second: Annotated[Path, typer.Argument(help="The folder of another one over the same samples.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write it all as JSON.")] = None,
) -> None:
    """Two evaluations of the same samples: figures side by side, and the samples that changed."""
    from segzero.evaluation.artifacts import read_rows
    from segzero.evaluation.compare import compare_runs
    from segzero.evaluation.html_report import pairs_of
    from segzero.io import write_json

    compared = {}
    for history, (one, other) in pairs_of(first, second).items():
        compared[history] = compare_runs(read_rows(one), read_rows(other))
        _show_comparison(compared[history], one, other)
    if out is not None:
        write_json(out, compared.get("", compared), indent=1)
        console.print(f"all of it is in {out}")


def _show_comparison(found: dict[str, Any], first: Path, second: Path) -> None:
    table = Table(f"{found['samples']} samples", str(first), str(second), "change", "95 % interval", "p", box=None)
    for name, line in found["figures"].items():
        table.add_row(
            name,
            f"{line['a']:.4f}",
            f"{line['b']:.4f}",
            f"{line['difference']:+.4f}",
            f"{line['low']:+.4f} to {line['high']:+.4f}",
            f"{line['p']:.3f}",
        )
    console.print(table)
    console.print(f"{len(found['changed'])} samples changed")
    for line in found["changed"][: 2 * SHOWN]:
        errors = " -> ".join(str(line[name] or "answered") for name in ("error_a", "error_b"))
        said = "" if line["error_a"] == line["error_b"] else f" ({errors})"
        console.print(f"  {line['a']:.3f} -> {line['b']:.3f}{said}  {line['id']}: {line['question']}")


def _tasks(benchmark: str | None, data: Path, input_json: Path | None, hf: str | None, splits: str) -> list:
    from segzero.evaluation.benchmarks import Benchmark, Task, get_benchmark, load_benchmarks

    if sum(given is not None for given in (benchmark, input_json, hf)) != 1:
        raise UserError("say what to evaluate: one of --benchmark NAME, --input_json FILE and --hf_dataset NAME")
    if input_json is not None:
        if not input_json.is_file():
            raise UserError(f"no such file: {input_json}; check --input_json")
        return [Task(Benchmark(input_json.stem, "converseg", "question", "none"), str(input_json.absolute()))]
    if hf is not None:
        named = [name.strip() for name in splits.split(",") if name.strip()]
        where = str(Path(hf).absolute()) if Path(hf).exists() else hf
        if not named:
            raise UserError("--hf_splits names no split")
        return [
            Task(
                Benchmark(f"{Path(hf).name}_{split}", "converseg", "question", "none", options={"split": split}), where
            )
            for split in named
        ]
    if benchmark == "all":
        tasks = [known.find(data) for known in load_benchmarks().values() if known.name != "own" and known.is_at(data)]
        if not tasks:
            raise UserError(f"--benchmark all: {data} holds the data of no benchmark; docs/evaluation.md says where")
        console.print(f"found in {data}: {', '.join(task.benchmark.name for task in tasks)}")
        return tasks
    return [get_benchmark(name.strip()).find(data) for name in str(benchmark).split(",")]


def _in_format(task: Any, format: str | None, written: list[str]) -> Any:
    """Own data as one of the published formats."""
    from segzero.cli.data import named_options
    from segzero.evaluation.benchmarks import OWN

    if task.benchmark.name != OWN or format is None:
        raise UserError("--format and --option go together with --benchmark own alone; the others know how to be read")
    benchmark = replace(
        task.benchmark,
        reader=format,
        options=named_options(written),
        level="category" if format == "coco" else task.benchmark.level,
        note=f"Own data in the format {format}.",
    )
    return replace(task, benchmark=benchmark)


def _tell_problems(name: str, count: int, problems: list[str], strict: bool) -> None:
    if not problems:
        return
    if len(problems) == count:
        raise UserError(f"{name}: none of the {count} records can be read, the first: {problems[0]}")
    if strict:
        raise UserError(
            f"{name}: {len(problems)} of {count} records can't be read (--strict), the first: {problems[0]}"
        )
    console.print(f"{name}: {len(problems)} of {count} records can't be read and count as failed:", style="yellow")
    for problem in problems[:SHOWN]:
        console.print(f"  {problem}", soft_wrap=True)


def _tell_count(task: Any, count: int) -> None:
    whole = task.benchmark.count
    if whole is not None and count != whole and task.limit is None:
        name = task.benchmark.name
        console.print(f"{name}: {count} samples, while the published set has {whole}", style="yellow", soft_wrap=True)


def _evaluate(task: Any, count: int, out: Path, answer_all: Any, settings: dict[str, Any], batch: int) -> None:
    from segzero.evaluation.html_report import folder_of
    from segzero.evaluation.runner import evaluate

    with _bar(_title(task.benchmark.name, task.history), count) as (bar, show):
        metrics = evaluate(task, out, answer_all, settings, batch, bar.console.print, show)
    _show(metrics, folder_of(out, task.history))


@contextmanager
def _bar(name: str, count: int) -> Iterator[tuple[Progress, Any]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("gIoU {task.fields[giou]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(escape(name), total=count, giou="-")
        begin = told = time.monotonic()
        before: int | None = None  # how many were finished when this began

        def show(predictions: Any) -> None:
            nonlocal told, before
            done, now = len(predictions), time.monotonic()
            before = done if before is None else before
            running = "-" if math.isnan(predictions.giou) else f"{predictions.giou:.3f}"
            bar.update(task, completed=done, giou=running)
            if not console.is_terminal and now - told > LOG_EVERY and done > before:
                left = (count - done) * (now - begin) / (done - before)
                console.print(f"{name}: {done} of {count}, gIoU {running}, {left / 60:.0f} min left")
                told = now

        yield bar, show


def _write_extras(task: Any, out: Path, save_preds: Path | None, output: str) -> None:
    from segzero.evaluation.exports import save_pictures, write_seg_zero
    from segzero.evaluation.predictions import NAME, Predictions

    with Predictions.open(out / NAME, write=False) as predictions:
        if save_preds is not None:
            console.print(f"pictures of {save_pictures(save_preds, task, predictions)} samples in {save_preds}")
        if output == "seg_zero":
            console.print(f"for Seg-Zero's scripts: {write_seg_zero(out, task, predictions)}")


def _show(metrics: dict[str, Any], out: Path) -> None:
    title = _title(metrics["benchmark"], metrics["protocol"].get("history"))
    table = Table(title, "", "95 % interval", "samples", box=None, padding=(0, 2, 0, 0))
    for name in HEADLINES:
        if figure := metrics["figures"].get(name):
            interval = "" if figure["low"] is None else f"{figure['low']:.3f} to {figure['high']:.3f}"
            table.add_row(name, f"{figure['value']:.3f}", interval, str(figure["of"]))
    console.print(table)
    for code, failed in metrics["errors"].items():
        console.print(f"failed, {code}: {failed['count']} of {metrics['samples']}")
    for model, figures in metrics["published"].items():
        told = ", ".join(f"{name} {value}" for name, value in figures.items())
        console.print(f"published, in percent: {model} {told}")
    console.print(f"in {out}/", soft_wrap=True)


def _show_rounds(both: dict[str, Any], out: Path) -> None:
    """The leading figure by round and the failures, for each history."""
    from segzero.evaluation.html_report import leading, told

    histories = list(both["histories"])
    [name, *_] = leading(both) or ["giou"]
    console.print(f"{both['benchmark']}: {name} by round")
    heads = [head for history in histories for head in (f"{history} history", "failed")]
    table = Table("round", *heads, box=None, padding=(0, 2, 0, 0))
    for number, found in {"all": both["histories"], **both["by_round"]}.items():
        cells = []
        for history in histories:
            one = found.get(history, {"figures": {}, "failed": 0, "samples": 0})
            cells += [told(one["figures"].get(name)), f"{one['failed']} of {one['samples']}"]
        table.add_row(number, *cells)
    console.print(table)
    for history, whole in both["histories"].items():
        for code, count in whole["errors"].items():
            console.print(f"failed with {history} history, {code}: {count} of {whole['samples']}")
    console.print(f"side by side in {out}/", soft_wrap=True)


def _title(name: str, history: str | None) -> str:
    return f"{name}, {history} history" if history else name

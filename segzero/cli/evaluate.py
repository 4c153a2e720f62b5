"""`segzero eval`: run benchmarks, score finished runs anew, compare two of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segzero.cli.data import named_options
from segzero.cli.options import (
    ModelOptions,
    RefineOptions,
    policy_or_shipped,
    segmenter_or_shipped,
    split_commas,
    takes_dataclasses,
)
from segzero.cli.options_file import read_options, write_options
from segzero.cli.program_writer import LLM_HELP, writer_address
from segzero.cli.several_answers import SeveralAnswersOptions
from segzero.errors import UserError, unknown_name
from segzero.extras import needs

if TYPE_CHECKING:
    from segzero.evaluation.benchmarks import Records, Task
    from segzero.evaluation.predict import Loader

app = typer.Typer(help="Benchmarks: answers, masks, figures one can publish.", no_args_is_help=True)

LAYOUTS = ("segzero", "seg_zero")
HISTORIES = {"true": ("true",), "predicted": ("predicted",), "both": ("true", "predicted")}  # by --history
GRES_PROTOCOLS = ("generative", "published")
SCRIPTS = "As ConverSeg's and Seg-Zero's scripts have it"  # a panel of --help


@dataclass(frozen=True)
class DataOptions:
    """Benchmarks and data to evaluate on."""

    benchmark: Annotated[
        str | None, typer.Option(help="A benchmark, several with commas, or all those whose data are in --data.")
    ] = None
    data: Annotated[Path, typer.Option(help="The folder below which the data are; for `own`, the data.")] = Path()
    format: Annotated[
        str | None, typer.Option(help="Of own data: folder, coco, refer, ...: the formats of `segzero docs data`.")
    ] = None
    option: Annotated[list[str] | None, typer.Option(help="The format's own: split=val, images=...")] = None
    limit: Annotated[int | None, typer.Option(help="Only the first samples, to try things out.", min=1)] = None
    history: Annotated[
        str | None,
        typer.Option(help="Of dialogues, what earlier rounds are: true, predicted or both (default), side by side."),
    ] = None
    strict: Annotated[bool, typer.Option("--strict", help="Refuse data of which a record can't be read.")] = False


@dataclass(frozen=True)
class RunOptions:
    """Lengths, batches and processes of an evaluation, and the folders it writes to."""

    max_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 2048
    batch: Annotated[int, typer.Option(help="Samples at once.", min=1)] = 16
    workers: Annotated[int, typer.Option(help="Processes with models of their own, through Ray.", min=1)] = 1
    gres: Annotated[
        str,
        typer.Option(help="Of mask models, IoU of a rejected target: generative (0) or published (its mask's)."),
    ] = "generative"
    program_writer: Annotated[str | None, typer.Option(help=f"Answer by programs: {LLM_HELP}")] = None
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for each benchmark goes here.")] = Path(
        "evaluation"
    )
    cache: Annotated[Path, typer.Option(help="Where answers and masks are kept.")] = Path("~/.cache/segzero/evaluation")


@dataclass(frozen=True)
class ScriptOptions:
    """Options that ConverSeg's and Seg-Zero's scripts have under the same names."""

    input_json: Annotated[
        Path | None,
        typer.Option("--input_json", "--input-json", help="ConverSeg's JSON.", rich_help_panel=SCRIPTS),
    ] = None
    hf_dataset: Annotated[
        str | None,
        typer.Option(
            "--hf_dataset", "--hf-dataset", help="A data set with ConverSeg's columns.", rich_help_panel=SCRIPTS
        ),
    ] = None
    hf_splits: Annotated[
        str, typer.Option("--hf_splits", "--hf-splits", help="Its splits, with commas.", rich_help_panel=SCRIPTS)
    ] = "sam_seeded,human_annotated"
    hf_config: Annotated[
        str,
        typer.Option("--hf_config", "--hf-config", help="Its configuration; there is one.", rich_help_panel=SCRIPTS),
    ] = "default"
    save_preds: Annotated[
        Path | None,
        typer.Option("--save_preds", "--save-preds", help="ConverSeg's pictures go here.", rich_help_panel=SCRIPTS),
    ] = None
    output: Annotated[
        str, typer.Option(help="seg_zero adds output_0.json as its scripts read it.", rich_help_panel=SCRIPTS)
    ] = "segzero"


@dataclass(frozen=True)
class EvalOptions:
    """All options of `segzero eval`."""

    data: DataOptions
    models: ModelOptions
    several: SeveralAnswersOptions
    looks: RefineOptions
    run: RunOptions
    scripts: ScriptOptions


@app.callback(invoke_without_command=True)
@needs("infer")
@takes_dataclasses
def run(
    context: typer.Context,
    *,
    options: EvalOptions,
    options_file: Annotated[
        Path | None,
        typer.Option(
            "--options",
            help="Take the options from this file, such as an evaluation's options.json; flags beside it win.",
            callback=read_options,
            is_eager=True,
        ),
    ] = None,
) -> None:
    """Evaluate a policy and a segmenter, or a mask model. Stopped, the same command goes on where it was."""
    if context.invoked_subcommand is not None:
        return
    _check(options)
    jobs = _jobs(options)
    _evaluate(jobs, options, {name: value for name, value in context.params.items() if name != "options_file"})
    _write_exports(jobs, options)


@dataclass(frozen=True)
class _Job:
    """One benchmark: its records and their number, the histories to evaluate (None without dialogues), its folder."""

    records: "Records"
    count: int
    histories: tuple[str | None, ...]
    folder: Path


def _check(options: EvalOptions) -> None:
    """Refuse values that nothing else checks before the data are read."""
    history, output, config = options.data.history, options.scripts.output, options.scripts.hf_config
    if history is not None and history not in HISTORIES:
        raise unknown_name("history", history, list(HISTORIES))
    if output not in LAYOUTS:
        raise unknown_name("output", output, list(LAYOUTS))
    if config != "default":
        raise UserError(f"--hf_config {config}: only the configuration 'default' is read")
    if options.run.gres not in GRES_PROTOCOLS:
        raise unknown_name("GRES protocol", options.run.gres, list(GRES_PROTOCOLS))
    if options.run.gres != RunOptions.gres and options.models.mask_model is None:
        raise UserError(f"--gres {options.run.gres} is for a --mask-model")
    longest = ("max_tokens", options.run.max_tokens, RunOptions.max_tokens)
    writer = ("program_writer", options.run.program_writer, None)
    refine = ("refine", options.looks.refine, RefineOptions.refine)
    alone = (longest, writer, refine, ("output", output, ScriptOptions.output), *options.several.rows)
    options.models.check_alone(*alone)
    options.several.check(options.looks.refine)
    if options.several.wanted and options.run.program_writer is not None:
        raise UserError("--votes and --own-attempts are for a policy's answers; leave --program-writer out")
    if options.looks.refine and options.run.program_writer is not None:
        raise UserError("--refine is for a policy's own masks, and --program-writer draws by programs; leave one out")


def _jobs(options: EvalOptions) -> list[_Job]:
    """Look through the data of each benchmark, and print what is wrong with them."""
    from segzero.cli.evaluate_output import console, show_problems
    from segzero.evaluation.benchmarks import KEPT_BYTES, Records, survey
    from segzero.evaluation.exports import file_stem

    jobs = []
    tasks = _tasks(options.data, options.scripts)
    for task in tasks:
        name, published = task.benchmark.name, task.benchmark.count
        records = Records(task, KEPT_BYTES // len(tasks))
        count, problems, dialogues = survey(records)
        if problems:
            _refuse(name, count, problems, options.data.strict)
            show_problems(name, count, problems)
        if published is not None and count != published and task.limit is None:
            line = f"{name}: {count} samples, while the published set has {published}"
            console.print(line, style="yellow", soft_wrap=True)
        histories = HISTORIES[options.data.history or "both"] if dialogues else (None,)
        jobs.append(_Job(records, count, histories, options.run.out / file_stem(name)))
    history = options.data.history
    if history is not None and not any(job.histories[0] for job in jobs):
        names = ", ".join(task.benchmark.name for task in tasks)
        raise UserError(f"--history {history}: no sample of {names} has earlier rounds; leave --history out")
    if options.run.program_writer is not None and any(job.histories[0] for job in jobs):
        raise UserError("--program-writer: samples have earlier rounds, of which programs know nothing; leave it out")
    if options.run.gres != RunOptions.gres and any(job.histories[0] for job in jobs):
        raise UserError(f"--gres {options.run.gres}: samples have earlier rounds, for which nothing is published")
    return jobs


def _refuse(name: str, count: int, problems: list[str], strict: bool) -> None:
    """Refuse data without any sample, and with --strict data with any problem."""
    if len(problems) == count:
        raise UserError(f"{name}: none of the {count} records can be read, the first: {problems[0]}")
    if strict:
        raise UserError(
            f"{name}: {len(problems)} of {count} records can't be read (--strict), the first: {problems[0]}"
        )


def _tasks(data: DataOptions, scripts: ScriptOptions) -> "list[Task]":
    """The benchmarks that the options name, with the places of their data."""
    from segzero.evaluation.benchmarks import get_benchmark

    if sum(given is not None for given in (data.benchmark, scripts.input_json, scripts.hf_dataset)) != 1:
        raise UserError("say what to evaluate: one of --benchmark NAME, --input_json FILE and --hf_dataset NAME")
    if data.benchmark is None:
        tasks = _tasks_of_scripts(scripts)
    elif data.benchmark == "all":
        tasks = _tasks_below(data.data)
    else:
        tasks = [get_benchmark(name.strip()).find(data.data) for name in data.benchmark.split(",")]
    if data.format or data.option:
        tasks = [_in_format(task, data.format, data.option or []) for task in tasks]
    return [replace(task, limit=data.limit) for task in tasks]


def _tasks_of_scripts(scripts: ScriptOptions) -> "list[Task]":
    """Data in ConverSeg's format: a JSON file, or splits of a data set on the hub or in a folder."""
    from segzero.evaluation.benchmarks import Benchmark, Task

    file, name = scripts.input_json, scripts.hf_dataset
    if file is not None:
        if not file.is_file():
            raise UserError(f"no such file: {file}; check --input_json")
        return [Task(Benchmark(file.stem, "converseg", "question", "none"), str(file.absolute()))]
    splits = split_commas(scripts.hf_splits)
    if not splits:
        raise UserError("--hf_splits names no split")
    path = Path(str(name))
    return [
        Task(
            Benchmark(f"{path.name}_{split}", "converseg", "question", "none", options={"split": split}),
            str(path.absolute()) if path.exists() else str(name),
        )
        for split in splits
    ]


def _tasks_below(folder: Path) -> "list[Task]":
    """All benchmarks whose data are in the folder."""
    from segzero.cli.evaluate_output import console
    from segzero.evaluation.benchmarks import OWN, load_benchmarks

    known = [benchmark for benchmark in load_benchmarks().values() if benchmark.name != OWN]
    tasks = [benchmark.find(folder) for benchmark in known if benchmark.is_at(folder)]
    if not tasks:
        raise UserError(f"--benchmark all: {folder} holds the data of no benchmark; see `segzero docs evaluation`")
    console.print(f"found in {folder}: {', '.join(task.benchmark.name for task in tasks)}")
    return tasks


def _in_format(task: "Task", format: str | None, options: list[str]) -> "Task":
    """Own data as one of the published formats."""
    from segzero.evaluation.benchmarks import OWN

    if task.benchmark.name != OWN or format is None:
        raise UserError("--format and --option go together with --benchmark own alone; the others know how to be read")
    benchmark = replace(
        task.benchmark,
        reader=format,
        options=named_options(options),
        level="category" if format == "coco" else task.benchmark.level,
        note=f"Own data in the format {format}.",
    )
    return replace(task, benchmark=benchmark)


def _evaluate(jobs: list[_Job], options: EvalOptions, values: dict[str, object]) -> None:
    """Answer and score every job, print its figures, and keep the options beside them."""
    from segzero.cli.evaluate_output import progress_bar, show_metrics, show_rounds, title
    from segzero.evaluation.runner import evaluate, start_workers
    from segzero.evaluation.side_by_side import folder_of
    from segzero.io import read_json

    with _models(options) as models, start_workers(models, options.run.workers) as (answer_all, settings):
        for job in jobs:
            if not any(job.folder.rglob("run.json")):  # an evaluation that goes on keeps the options it began with
                write_options(job.folder, values)
            name, batch = job.records.task.benchmark.name, options.run.batch
            for history in job.histories:
                with progress_bar(title(name, history), job.count) as (print_line, show):
                    metrics = evaluate(job.records, job.folder, answer_all, settings, batch, history, print_line, show)
                show_metrics(metrics, folder_of(job.folder, history))
            if job.histories[0]:
                show_rounds(read_json(job.folder / "metrics.json"), job.folder)


@contextmanager
def _models(options: EvalOptions) -> "Iterator[Loader]":
    """The models to load; the writer of scenes' programs is served while the context lasts."""
    from segzero.evaluation.predict import (
        EvaluationMaskModel,
        EvaluationModels,
        EvaluationPrograms,
        EvaluationSeveralAnswers,
    )

    models, run = options.models, options.run
    if models.mask_model is not None:
        drawn, device = run.gres == "published", models.backends.device
        yield EvaluationMaskModel(models.mask_model, device, run.batch, run.cache.expanduser(), drawn)
        return
    pair = EvaluationModels(
        policy_or_shipped(models.policy),
        segmenter_or_shipped(models.segmenter),
        models.backends.policy_backend,
        models.backends.segmenter_backend,
        models.backends.device,
        models.backends.frame,
        models.backends.prompt,
        run.max_tokens,
        run.batch,
        run.cache.expanduser(),
        options.looks.refine,
        options.looks.limit,
    )
    several = options.several
    if run.program_writer is None:
        loader = EvaluationSeveralAnswers(pair, several.vote_settings(), several.own_attempts)
        yield loader if several.wanted else pair
        return
    with writer_address(run.program_writer) as address:
        yield EvaluationPrograms(pair, address, "scenes" if models.segmenter is None else "sam2")


def _write_exports(jobs: list[_Job], options: EvalOptions) -> None:
    """Write pictures and answers as ConverSeg's and Seg-Zero's scripts have them, if they are wanted."""
    from segzero.cli.evaluate_output import console
    from segzero.evaluation.exports import save_pictures, write_seg_zero
    from segzero.evaluation.predictions import PREDICTIONS, Predictions
    from segzero.evaluation.scoring import read_rows
    from segzero.evaluation.side_by_side import folder_of

    pairs = [(job.records, folder_of(job.folder, history)) for job in jobs for history in job.histories]
    for records, folder in pairs:
        with Predictions.open(folder / PREDICTIONS, write=False) as predictions:
            if (pictures := options.scripts.save_preds) is not None:
                if len(pairs) > 1:
                    pictures = pictures / folder.relative_to(options.run.out)
                console.print(f"pictures of {save_pictures(pictures, records, predictions)} samples in {pictures}")
            if options.scripts.output == "seg_zero":
                written = write_seg_zero(folder, records, predictions, read_rows(folder))
                console.print(f"for Seg-Zero's scripts: {written}")


@app.command()
@needs("infer")
def rescore(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished evaluation.")],
    data: Annotated[Path | None, typer.Option(help="Where the data are now, if they have moved.")] = None,
) -> None:
    """Score finished predictions anew: no model is asked."""
    from segzero.cli.evaluate_output import show_metrics, show_rounds
    from segzero.evaluation.runner import rescore as score_again
    from segzero.evaluation.side_by_side import histories_in

    show = show_rounds if histories_in(folder) else show_metrics
    show(score_again(folder, data), folder)


@app.command()
@needs("infer")
def compare(
    first: Annotated[Path, typer.Argument(help="The folder of one evaluation.")],
    second: Annotated[Path, typer.Argument(help="The folder of another one over the same samples.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write it all as JSON.")] = None,
) -> None:
    """Two evaluations of the same samples: figures side by side, and the samples that changed."""
    from segzero.cli.evaluate_output import console, show_comparison
    from segzero.evaluation.compare import compare_runs
    from segzero.evaluation.scoring import read_rows
    from segzero.evaluation.side_by_side import pairs_of
    from segzero.io import write_json

    compared = {}
    for history, (one, other) in pairs_of(first, second).items():
        compared[history] = compare_runs(read_rows(one), read_rows(other))
        show_comparison(compared[history], one, other)
    if out is not None:
        write_json(out, compared.get("", compared), indent=1)
        console.print(f"all of it is in {out}")

"""`segzero data select`: training samples chosen by the policy's own answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from segzero.cli.options import ModelOptions, takes_dataclasses
from segzero.errors import UserError
from segzero.extras import needs

if TYPE_CHECKING:
    from segzero.evaluation.frontier import FrontierSettings, SelectionReport

console = Console(highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class FrontierOptions:
    """Thresholds of the classes, and shares of the samples outside the frontier."""

    right: Annotated[float, typer.Option(help="IoU above which an answer is right.")] = 0.6
    fine: Annotated[float, typer.Option(help="IoU up to which a right answer is rough.")] = 0.8
    hopeless: Annotated[float, typer.Option(help="IoU that no answer to a hopeless sample reaches.")] = 0.1
    spread: Annotated[float, typer.Option(help="Least difference of IoU where some answers are right.")] = 0.1
    keep_hopeless: Annotated[float, typer.Option(help="Hopeless samples to keep, per sample at the frontier.")] = 0.1
    keep_mastered: Annotated[float, typer.Option(help="Mastered samples to keep, per sample at the frontier.")] = 0.2
    seed: Annotated[int, typer.Option(help="Seed of the answers, and of what is kept.", min=0)] = 0

    def settings(self) -> "FrontierSettings":
        """Convert to the settings of the selection."""
        from segzero.evaluation.frontier import FrontierSettings

        return FrontierSettings(**vars(self))


@needs("infer")
@takes_dataclasses
def select(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN|EVALUATION|ANSWERS]...",
            help="Folders of a training run or of evaluations, or an earlier selection's answers; default: sampled.",
        ),
    ] = None,
    *,
    data: Annotated[Path, typer.Option(help="A folder of .parquet files of Samples, or one such file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .parquet file to write.")],
    frontier: Annotated[
        bool, typer.Option("--frontier", help="Choose what the policy gets right now and then, or roughly.")
    ] = False,
    answers: Annotated[int, typer.Option(help="Sampled answers to each question.", min=2)] = 8,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 1024,
    models: ModelOptions,
    options: FrontierOptions,
) -> None:
    """Choose training samples by a policy's answers to them: the samples at the frontier of what it can do."""
    from segzero.evaluation.frontier import read_answers
    from segzero.evaluation.frontier import select as select_samples

    if not frontier:
        raise UserError("say how to select: --frontier, by the policy's own answers")
    if out.suffix != ".parquet":
        raise UserError(f"--out {out}: name a .parquet file")
    settings = options.settings()
    sampled = out.with_suffix(".answers.jsonl")
    if not sources:
        _sample(models, data, sampled, answers, max_tokens, settings.seed)
    report = select_samples(data, read_answers(sources or [sampled]), out, settings)
    _print(report)
    console.print(f"selected samples are in {out}, the class of each in {out.with_suffix('.classes.jsonl')}")
    if not sources:
        console.print(f"the answers are in {sampled}; other thresholds: segzero data select {sampled} --frontier ...")


def _sample(models: ModelOptions, data: Path, file: Path, answers: int, max_tokens: int, seed: int) -> None:
    """Sample answers into the file; those of an earlier call are kept."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from segzero.data.parquet import from_parquet
    from segzero.evaluation.frontier import ask_samples
    from segzero.pipeline import SegZeroPipeline
    from segzero.policy import Sampling

    if models.mask_model is not None:
        raise UserError("--mask-model gives one answer to a question; select by a policy's answers")
    total = sum(1 for _ in from_parquet(data))
    pipeline = models.load(Sampling(max_tokens=max_tokens, seed=seed))
    assert isinstance(pipeline, SegZeroPipeline)
    columns = (TextColumn("samples asked"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=total)
            ask_samples(pipeline, from_parquet(data), answers, file, lambda done: bar.update(task, completed=done))
    finally:
        pipeline.close()


def _print(report: "SelectionReport") -> None:
    from rich.table import Table

    table = Table("class", "samples", "kept", "mean IoU", box=None, padding=(0, 2, 0, 0))
    for name, count in sorted(report.read.items(), key=lambda item: -item[1]):
        mean = f"{report.mean[name]:.3f}" if name in report.mean else "-"
        table.add_row(name, str(count), str(report.kept.get(name, 0)), mean)
    table.add_row("all", str(sum(report.read.values())), str(sum(report.kept.values())), "")
    console.print(table)

"""`segzero infer`: masks for a question about images."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from segzero.cli.options import MaxPixelsOption, ModelOptions, RefineOptions, split_commas, takes_dataclasses
from segzero.cli.several_answers import SeveralAnswersOptions
from segzero.errors import UserError
from segzero.extras import needs
from segzero.image_structure import MAX_PIXELS

if TYPE_CHECKING:
    from segzero.batch_inference import Job, Outcome
    from segzero.policy import Sampling

console = Console(highlight=False, markup=False, emoji=False)  # paths, questions and answers may hold brackets


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling of the policy's answer."""

    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0.0)] = 0.0
    max_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 1024
    seed: Annotated[int, typer.Option(help="For temperatures above 0.")] = 0

    def sampling(self) -> "Sampling":
        """Convert to the argument that a policy takes."""
        from segzero.policy import Sampling

        return Sampling(temperature=self.temperature, max_tokens=self.max_tokens, seed=self.seed)


@needs("infer")
@takes_dataclasses
def infer(
    images: Annotated[str | None, typer.Argument(help="An image, a folder or a quoted glob.")] = None,
    question: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    questions: Annotated[
        Path | None, typer.Option(help='Instead of both: a JSON-lines file of {"image": ..., "question": ...}.')
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the files go.")] = Path("outputs"),
    format: Annotated[
        str, typer.Option(help="Any of panel, overlay, mask, json, coco, separated by commas.")
    ] = "panel,json",
    *,
    models: ModelOptions,
    sampling: SamplingOptions,
    several: SeveralAnswersOptions,
    looks: RefineOptions,
    batch: Annotated[int, typer.Option(help="Images at once.", min=1)] = 64,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
) -> None:
    """Answer a question about images with masks."""
    from segzero import batch_inference
    from segzero.pipeline import SegZeroPipeline

    jobs = _jobs(images, question, questions)
    formats = tuple(split_commas(format))
    batch_inference.check_formats(formats)
    several.check(looks.refine)
    sampled = ((one.name, getattr(sampling, one.name), one.default) for one in fields(sampling))
    models.check_alone(*sampled, *several.rows)
    loaded = looks.applied(models.load(sampling.sampling()))
    pipeline = several.apply(loaded, sampling.temperature) if isinstance(loaded, SegZeroPipeline) else loaded
    pipeline.batch = batch
    outcomes = batch_inference.save(batch_inference.run(pipeline, jobs, max_pixels), out, formats)
    failed = _print_outcomes(outcomes, len(jobs))
    console.print(f"{len(jobs) - failed} of {len(jobs)} done; files in {out}/")
    if failed:
        raise typer.Exit(2)


def _jobs(images: str | None, question: str | None, questions: Path | None) -> "list[Job]":
    from segzero.batch_inference import jobs_for, jobs_from

    if questions is not None and images is None:
        return jobs_from(questions)
    if questions is None and images is not None and question is not None:
        return jobs_for(images, question)
    raise UserError('give IMAGES and "question", or --questions file.jsonl')


def _print_outcomes(outcomes: "Iterable[Outcome]", total: int) -> int:
    """Print a line for each outcome under a progress bar; returns how many failed."""
    from rich.progress import Progress

    failed = 0
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("segmenting", total=total)
        for outcome in outcomes:
            progress.advance(task)
            if outcome.problem or outcome.result is None:
                failed += 1
                progress.console.print(f"{outcome.job.name}: not done: {outcome.problem}", style="red")
                continue
            result = outcome.result
            answer = result.error or (f"{len(result.instances)} found" if result.instances else "nothing there")
            answer += f" ({', '.join(step.action for step in result.steps)})" if result.steps else ""
            progress.console.print(f"{outcome.job.name}: {answer}: {result.think}")
    return failed

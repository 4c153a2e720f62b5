"""The `segzero` command. Each command parses its flags and calls the room that does the work."""

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from segzero import __version__
from segzero.cli.chat import chat
from segzero.cli.data import data
from segzero.cli.demo_ui import demo_ui
from segzero.cli.evaluate import app as evaluation
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
from segzero.cli.serve import serve
from segzero.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Segment by reasoning: a question about an image becomes a think-chain, boxes, points and masks.",
)
console = Console(highlight=False, markup=False, emoji=False)  # paths, questions and answers may hold brackets

MaxPixelsOption = Annotated[int, typer.Option(help="Refuse larger images.", min=1)]


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Options of the command itself."""
    if version:
        console.print(__version__)
        raise typer.Exit


@app.command()
def infer(
    images: Annotated[str | None, typer.Argument(help="An image, a folder or a quoted glob.")] = None,
    question: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    questions: Annotated[
        Path | None, typer.Option(help='Instead of both: a JSON-lines file of {"image": ..., "question": ...}.')
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the files go.")] = Path("outputs"),
    format: Annotated[str, typer.Option(help="Of panel, overlay, mask, json, coco: some, with commas.")] = "panel,json",
    policy: PolicyOption = None,
    segmenter: SegmenterOption = None,
    policy_backend: PolicyBackendOption = "auto",
    segmenter_backend: SegmenterBackendOption = "auto",
    frame: FrameOption = None,
    prompt: PromptOption = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0.0)] = 0.0,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 1024,
    seed: Annotated[int, typer.Option(help="For temperatures above 0.")] = 0,
    batch: Annotated[int, typer.Option(help="Images at once.", min=1)] = 64,
    device: DeviceOption = "auto",
    max_pixels: MaxPixelsOption = 89_000_000,
) -> None:
    """Answer a question about images with masks."""
    from segzero import batch_inference
    from segzero.policy import Sampling

    if (questions is None) == (images is None) or (questions is None and question is None):
        raise UserError('give IMAGES and "question", or --questions file.jsonl')
    jobs = batch_inference.jobs_from(questions) if questions else batch_inference.jobs_for(str(images), str(question))
    formats = tuple(name.strip() for name in format.split(",") if name.strip())
    batch_inference.check_formats(formats)
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed)
    pipeline = _load_pipeline(
        policy, segmenter, policy_backend, segmenter_backend, device, frame=frame, prompt=prompt, sampling=sampling
    )
    pipeline.batch = batch
    failed = _show_progress(
        batch_inference.save(batch_inference.run(pipeline, jobs, max_pixels), out, formats), len(jobs)
    )
    console.print(f"{len(jobs) - failed} of {len(jobs)} done; files in {out}/")
    if failed:
        raise typer.Exit(2)


@app.command()
def segment(
    image: Annotated[str, typer.Argument(help="The image.")],
    point: Annotated[list[str] | None, typer.Option(help="x,y in pixels; -x,y is a point outside the object.")] = None,
    box: Annotated[list[str] | None, typer.Option(help="x0,y0,x1,y1 in pixels; each box is an object.")] = None,
    all_masks: Annotated[bool, typer.Option("--all-masks", help="All three readings, best first.")] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the files go.")] = Path("outputs"),
    format: Annotated[str, typer.Option(help="Of panel, overlay, mask, json, coco.")] = "overlay,mask,json",
    segmenter: SegmenterOption = None,
    segmenter_backend: SegmenterBackendOption = "auto",
    device: DeviceOption = "auto",
    max_pixels: MaxPixelsOption = 89_000_000,
) -> None:
    """Draw masks from points and boxes, without a policy."""
    from segzero import point_prompts
    from segzero.batch_inference import check_formats
    from segzero.images import load_image
    from segzero.segmenter import load_segmenter

    formats = tuple(name.strip() for name in format.split(",") if name.strip())
    check_formats(formats)
    picture = load_image(image, max_pixels=max_pixels)
    prompts = point_prompts.parse_prompts(point or [], box or [], picture.size)
    drawer = load_segmenter(segmenter_or_shipped(segmenter), segmenter_backend, device=device)
    for name, result in point_prompts.draw(drawer, picture, prompts, Path(image).stem, all_masks):
        files = result.save(out, name, formats)
        scores = ", ".join(f"{found.score:.2f}" for found in result.instances)
        console.print(f"predicted IoU {scores}: {', '.join(str(file) for file in files.values())}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path("demo"),
    scenes: Annotated[int, typer.Option(help="How many held-out scenes to show.", min=1)] = 9,
    steps: Annotated[int, typer.Option(help="Training steps between the two evaluations; 0 only asks.", min=0)] = 100,
    seed: Annotated[int, typer.Option(help="Which scenes.", min=0, max=999)] = 0,
    policy_backend: PolicyBackendOption = "auto",
) -> None:
    """Watch the shipped policy answer, learn by reinforcement, and answer again."""
    from segzero.cli.demo import run_demo

    run_demo(out, scenes, steps, seed, policy_backend, console)


@app.command()
def train(
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ...; dry_run=true only explains.")] = None,
    config_name: Annotated[str, typer.Option("--config-name", help="A YAML file of configs/.")] = "train",
) -> None:
    """Teach a policy by reinforcement learning (GRPO)."""
    from segzero.training.launch import train as launch

    run = launch(config_name, overrides or [])
    if run is not None:
        console.print(f"the run is in {run}")


@app.command()
def merge(
    checkpoint: Annotated[Path, typer.Argument(help="A training checkpoint: global_step_N, or its actor folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the Hugging Face checkpoint goes.")],
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    adapter: Annotated[bool, typer.Option("--adapter", help="Only the LoRA adapter, as PEFT loads it.")] = False,
) -> None:
    """Turn a training checkpoint into one that Hugging Face's from_pretrained loads."""
    from segzero.training import merge as merging

    write = merging.export_adapter if adapter else merging.merge
    console.print(f"written to {write(checkpoint, out, dtype)}")


app.command()(chat)
app.command()(serve)
app.command()(demo_ui)
app.add_typer(data, name="data")
app.add_typer(evaluation, name="eval")


@app.command()
def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Versions only; do not try the backends.")] = False,
) -> None:
    """Versions, accelerators, memory and which backends work, to paste into a bug report."""
    from segzero.cli.doctor import report

    print(report(try_backends=not quick))


def _load_pipeline(policy, segmenter, policy_backend, segmenter_backend, device, **options):
    from segzero.pipeline import SegZeroPipeline

    return SegZeroPipeline.from_pretrained(
        policy_or_shipped(policy),
        segmenter_or_shipped(segmenter),
        policy_backend=policy_backend,
        segmenter_backend=segmenter_backend,
        device=device,
        **options,
    )


def _show_progress(outcomes, total: int) -> int:
    """Print a line for each outcome under a progress bar; returns how many failed."""
    from rich.progress import Progress

    failed = 0
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("segmenting", total=total)
        for outcome in outcomes:
            progress.advance(task)
            if outcome.problem:
                failed += 1
                progress.console.print(f"{outcome.job.name}: not done: {outcome.problem}", style="red")
                continue
            result = outcome.result
            said = result.error or (f"{len(result.instances)} found" if result.instances else "nothing there")
            progress.console.print(f"{outcome.job.name}: {said}: {result.think}")
    return failed


def main() -> None:
    """Run the command; a user's mistake is one line and exit code 2."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers obeys it too
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text, nor answers
    try:
        app()
    except UserError as error:
        print(f"segzero: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

"""`segzero data engine` and `segzero data export-runs`: questions and masks made of raw images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from segzero.cli.options import DeviceOption, SegmenterOption, segmenter_or_shipped, split_commas, takes_dataclasses
from segzero.errors import UserError
from segzero.extras import needs, require

if TYPE_CHECKING:
    from segzero.data.engine.runs import EngineRun
    from segzero.data.engine.settings import EngineLimits, EngineSettings
    from segzero.segmenter import Segmenter

console = Console(highlight=False, markup=False, soft_wrap=True)  # a model's words may hold brackets

FAMILIES = "entities,spatial,relations,affordances,physics"
FAULTS = "wrong=0.1,malformed=0.05,refused=0.02,cut=0.02,busy=0.05,wait=0.2"


@dataclass(frozen=True)
class EngineOptions:
    """Server, price and patience."""

    vlm: Annotated[str, typer.Option(help="OpenAI-compatible server of a vision model, http://HOST:PORT/v1.")] = ""
    vlm_model: Annotated[str, typer.Option(help="The model's name there, if it serves several.")] = ""
    budget: Annotated[float | None, typer.Option(help="Stop before the folder has cost more dollars.")] = None
    price: Annotated[str | None, typer.Option(help="IN,OUT in dollars per million tokens, such as 0.30,2.50.")] = None
    workers: Annotated[int, typer.Option(help="Images at once.")] = 4
    timeout: Annotated[float, typer.Option(help="Seconds for an answer.")] = 120.0
    attempts: Annotated[int, typer.Option(help="Attempts at an answer that can be read.")] = 3

    def limits(self, model: str) -> "EngineLimits":
        """Check them; the price is the table's if it is not given."""
        from segzero.data.engine.settings import EngineLimits, price_of

        price = price_of(model, self.price)
        return EngineLimits(self.workers, self.budget, price, self.timeout, attempts=self.attempts)


@dataclass(frozen=True)
class MakingOptions:
    """Everything that decides what is made."""

    frame: Annotated[str, typer.Option(help="How the model writes boxes: relative(1000), native.")] = "relative(1000)"
    longest: Annotated[int, typer.Option(help="Longer side of the pictures it sees, in pixels.")] = 1024
    temperature: Annotated[float, typer.Option(help="Of its answers.")] = 0.7
    max_tokens: Annotated[int, typer.Option(help="Of an answer.")] = 2048
    regions: Annotated[int, typer.Option(help="Most regions of an image.")] = 8
    concepts: Annotated[str, typer.Option(help="Families of prompts.")] = FAMILIES
    prompts: Annotated[int, typer.Option(help="Most prompts of a family and an image.")] = 3
    negatives: Annotated[int, typer.Option(help="Most prompts of an image that nothing fits.")] = 4
    votes: Annotated[int, typer.Option(help="Answers to each verification; the majority decides.")] = 1
    pool_iou: Annotated[float, typer.Option(help="Least IoU of a mask that replaces the box's.")] = 0.5
    points_per_side: Annotated[int, typer.Option(help="Of the grid that finds everything.")] = 32
    seed: Annotated[int, typer.Option(help="Of the model's answers.", min=0)] = 0

    def settings(self, model: str, segmenter: str) -> "EngineSettings":
        """Check them."""
        from segzero.data.engine.settings import EngineSettings

        given = {**vars(self), "concepts": tuple(split_commas(self.concepts))}
        return EngineSettings(model=model, segmenter=segmenter, **given)


@dataclass(frozen=True)
class EngineDemoOptions:
    """The engine on synthetic scenes, with a scripted model in place of a server."""

    demo: Annotated[bool, typer.Option("--demo", help="Show it on scenes, with a scripted model: no server.")] = False
    scenes: Annotated[int, typer.Option(help="Scenes of the demo.", min=1)] = 20
    faults: Annotated[str, typer.Option(help="How often the scripted model fails, and how.")] = FAULTS


@needs("infer")
@takes_dataclasses
def engine(
    source: Annotated[str | None, typer.Argument(metavar="INPUT", help="An image, a folder or a pattern.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the runs go.")] = Path("runs/engine"),
    segmenter: SegmenterOption = None,
    device: DeviceOption = "auto",
    *,
    limits: EngineOptions,
    making: MakingOptions,
    demo: EngineDemoOptions,
) -> None:
    """Make questions and masks of raw images with a vision-language model; stopped, it goes on without paying twice."""
    require("torch")
    if demo.demo:
        _demo(source, out, segmenter, limits, making, demo)
        return
    if demo != EngineDemoOptions():
        raise UserError("--scenes and --faults are for --demo; leave them out")
    if source is None or not limits.vlm:
        raise UserError("give images and a server, INPUT --vlm http://HOST:PORT/v1, or try --demo")
    from segzero.segmenter import load_segmenter

    def load() -> "Segmenter":
        return load_segmenter(segmenter_or_shipped(segmenter), device=device)

    run_images(source, out, segmenter or "shipped", load, limits, making)


def run_images(
    source: str,
    out: Path,
    segmenter: str,
    load: "Callable[[], Segmenter]",
    limits: EngineOptions,
    making: MakingOptions,
) -> None:
    """Take images through the engine, write the report and say what came of it."""
    from segzero.data.engine.report import write_report
    from segzero.data.engine.runs import check_images, find_model, plan, prepare, run_engine

    jobs = plan(source, out)
    unreadable = check_images(jobs)
    limits.limits(limits.vlm_model)  # before the server is asked
    url, model_name = find_model(limits.vlm, limits.vlm_model)
    model = prepare(url, out, making.settings(model_name, segmenter), limits.limits(model_name))
    run = run_engine(
        [job for job in jobs if job.name not in unreadable],
        out,
        model,
        load(),
        _progress(len(jobs)),
    )
    run.failed |= unreadable
    run.total = len(jobs)
    report = write_report(out, run.failed)
    _say(run, out, limits.budget)
    console.print(f"look at {report}; then: segzero data export-runs {out} --out DATA")
    if run.failed:
        raise typer.Exit(1)


def _progress(total: int) -> Callable[[str, str], None]:
    done = [0]

    def on_image(name: str, outcome: str) -> None:
        done[0] += 1
        console.print(f"{done[0]}/{total} {name}: {outcome}")

    return on_image


def _say(run: "EngineRun", out: Path, budget: float | None) -> None:
    """Print what a run made, what failed and what it cost."""
    from segzero.data.engine.calls import CallFile
    from segzero.data.engine.report import figures_of

    figures, usage = figures_of(out), CallFile(out).usage()
    console.print(
        f"{len(run.finished)} of {run.total} images; {figures.accepted_regions} of {figures.regions} regions and "
        f"{figures.accepted_prompts} of {figures.all_prompts} prompts accepted"
    )
    console.print(f"{usage}; {run.new_calls} calls are new")
    for problem, count in sorted(run.problems.items()):
        console.print(f"  {count} answers could not be used: {problem}")
    for name, problem in run.failed.items():
        console.print(f"  failed: {name}: {problem}")
    if run.over_budget:
        console.print(f"the budget of ${budget:g} is spent; {run.left} images are left, a larger --budget goes on")


def _demo(
    source: str | None,
    out: Path,
    segmenter: str | None,
    limits: EngineOptions,
    making: MakingOptions,
    demo: EngineDemoOptions,
) -> None:
    """Run the engine on scenes, check what it made and compare it with the truth."""
    from dataclasses import replace

    from segzero.data.check import check
    from segzero.data.engine.report import write_report
    from segzero.tiny.engine_demo import run_demo
    from segzero.tiny.scripted_vlm import Faults

    if source is not None or limits.vlm or limits.vlm_model or segmenter is not None:
        raise UserError("--demo brings images, model and segmenter along; leave INPUT, --vlm and --segmenter out")
    if making != replace(MakingOptions(), votes=making.votes):
        raise UserError("--demo has settings of its own; of what decides the result, it takes --votes alone")
    asked = limits.limits("gemini-flash-latest")
    result = run_demo(out, demo.scenes, Faults.parse(demo.faults), asked, making.votes, _progress(demo.scenes))
    report = write_report(out / "runs", result.run.failed)
    _say(result.run, out / "runs", limits.budget)
    console.print(str(result.truth))
    console.print(str(result.export))
    console.print(str(check(out / "data")))
    console.print(f"look at {report}; learn from it: segzero sft data={out / 'data'} steps=300 lr=1e-4")


@needs("infer")
def export_runs(
    runs: Annotated[Path, typer.Argument(help="A folder of runs, ours or those of ConverSeg's engine, or one run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")],
    mode: Annotated[str, typer.Option(help="train, eval or both.")] = "both",
    path_mode: Annotated[str, typer.Option("--path_mode", "--path-mode", help="relative or absolute.")] = "relative",
    val: Annotated[float, typer.Option(help="Share of images for evaluation alone.")] = 0.0,
) -> None:
    """Write the accepted prompts of engine runs as ConverSeg's training and evaluation files, and as Samples."""
    require("datasets")
    from segzero.data.engine.export import export_runs as export

    console.print(str(export(runs, out, mode, path_mode, val)))
    console.print(f"in {out}/; look at it: segzero data check {out}")

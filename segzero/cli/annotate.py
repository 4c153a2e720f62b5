"""`segzero data annotate`: a project of SAM's three stages of annotation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from segzero.cli.options import segmenter_or_shipped
from segzero.errors import UserError, unknown_name
from segzero.extras import needs, require

if TYPE_CHECKING:
    from segzero.data.annotation import AnnotationProject

console = Console(highlight=False, markup=False, soft_wrap=True)  # paths and labels may hold brackets


@needs("infer")
def annotate(
    project: Annotated[Path, typer.Argument(help="The project's folder; made if --images is given.")],
    images: Annotated[Path | None, typer.Option(help="A folder of images that join the project.")] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            help="manual: annotators draw; semi: they judge confident masks of everything mode, and draw the others; "
            "auto: everything mode alone, without a page. Default: the project's own."
        ),
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(help="Folder or hub name of a SAM2 checkpoint, as `segzero tune` writes it; default: shipped."),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            help="Least predicted IoU of masks of everything mode; default: semi 0.9, auto 0.8.", min=0, max=1
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Everything mode as in sam2, sam or scenes (for the shipped segmenter); default: by segmenter."
        ),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Print the progress, and change nothing.")] = False,
    host: Annotated[str, typer.Option(help="Where the page is served; 127.0.0.1 is this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.", min=1, max=65535)] = 8000,
    tokens: Annotated[
        Path | None, typer.Option(help="Annotators: lines of a name and a token; default: $SEGZERO_TOKENS.")
    ] = None,
) -> None:
    """Annotate images on a page with a segmenter's help, in SAM's three stages; called again, it goes on."""
    from segzero.data.annotation import open_project

    require("torch")
    if status:
        given = {"--images": images, "--stage": stage, "--segmenter": segmenter, "--confidence": confidence}
        given["--preset"] = preset
        if useless := [name for name, value in given.items() if value is not None]:
            raise UserError(f"--status only looks; leave out {' and '.join(useless)}")
        console.print(str(open_project(project)[0].progress()))
        return
    opened, problems = open_project(project, images, stage)
    if problems:
        console.print(f"{len(problems)} images are left out; first: {problems[0]}")
    if opened.stage == "manual":
        for name, value in (("--confidence", confidence), ("--preset", preset)):
            if value is not None:
                raise UserError(
                    f"{name} is for the stages semi and auto; in the stage manual annotators draw all masks"
                )
    else:
        _prefill(opened, segmenter, confidence, preset or ("sam2" if segmenter else "scenes"))
    console.print(str(opened.progress()))
    if opened.stage == "auto":
        console.print(f"samples: segzero data prepare {project} --format annotation --option label=object --out DATA")
        return
    _serve(opened, segmenter, host, port, tokens)


def _prefill(project: "AnnotationProject", path: str | None, confidence: float | None, preset: str) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from segzero.data.prefill import prefill
    from segzero.segmenter import load_segmenter
    from segzero.segmenter.everything import PRESETS

    if preset not in PRESETS:
        raise unknown_name("preset", preset, list(PRESETS))
    segmenter = load_segmenter(segmenter_or_shipped(path))
    columns = (TextColumn("everything mode"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(project.entries))
        filled = prefill(project, segmenter, confidence, PRESETS[preset], lambda done: bar.update(task, completed=done))
    console.print(str(filled))


def _serve(project: "AnnotationProject", segmenter: str | None, host: str, port: int, tokens: Path | None) -> None:
    require("fastapi")
    from segzero.cli.serve import ServeOptions, run_server

    console.print(f"annotate at http://{host}:{port}/ui/annotate.html")
    named = None if segmenter is None else [segmenter]
    run_server(ServeOptions(host=host, port=port, tokens=tokens, segmenter=named), page=True, annotation=project)

"""`segzero everything`: all masks of images; `segzero edges`: their edges."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from segzero.cli.options import (
    DeviceOption,
    MaxPixelsOption,
    SegmenterBackendOption,
    SegmenterOption,
    segmenter_or_shipped,
    split_commas,
    takes_dataclasses,
)
from segzero.errors import unknown_name
from segzero.extras import needs
from segzero.image_structure import MAX_PIXELS

if TYPE_CHECKING:
    from segzero.segmenter.everything import EverythingSettings

console = Console(highlight=False, markup=False, emoji=False)  # paths may hold brackets


@dataclass(frozen=True)
class SegmenterOptions:
    """A segmenter, and the program and device that run it."""

    segmenter: SegmenterOption = None
    segmenter_backend: SegmenterBackendOption = "auto"
    device: DeviceOption = "auto"


@dataclass(frozen=True)
class EverythingOptions:
    """Settings of everything mode; those that are not given are the preset's."""

    preset: Annotated[
        str | None,
        typer.Option(help="sam2, sam or scenes (for the shipped segmenter, and its default); default: sam2."),
    ] = None
    points_per_side: Annotated[int | None, typer.Option(help="Points in a row of the grid, 1 to 128.")] = None
    points_per_batch: Annotated[int | None, typer.Option(help="Points decoded at once, 1 to 1024.")] = None
    pred_iou_thresh: Annotated[float | None, typer.Option(help="Drop masks of no higher predicted IoU.")] = None
    stability_thresh: Annotated[float | None, typer.Option(help="Drop masks of lower stability.")] = None
    stability_offset: Annotated[float | None, typer.Option(help="How far the cut moves, in logits.")] = None
    box_nms_thresh: Annotated[float | None, typer.Option(help="IoU of boxes of duplicates.")] = None
    crop_layers: Annotated[int | None, typer.Option(help="Layers of crops, 0 to 3: 1 adds 2x2, 2 also 4x4.")] = None
    crop_overlap: Annotated[float | None, typer.Option(help="Overlap, as a share of the shorter side.")] = None
    crop_downscale: Annotated[int | None, typer.Option(help="Divides the points of each layer of crops.")] = None
    crop_nms_thresh: Annotated[float | None, typer.Option(help="IoU of boxes of duplicates among crops.")] = None
    min_area: Annotated[int | None, typer.Option(help="Fill holes and drop islands of fewer pixels.")] = None
    skip_covered: Annotated[
        bool | None, typer.Option(help="Skip points in masks that are found already, or decode every point.")
    ] = None

    def settings(self, shipped: bool) -> "EverythingSettings":
        """The preset with what was given; `shipped`: the segmenter is the one that comes with SegZero."""
        from segzero.segmenter.everything import PRESETS

        preset = self.preset or ("scenes" if shipped else "sam2")
        if preset not in PRESETS:
            raise unknown_name("preset", preset, list(PRESETS))
        names = [one.name for one in fields(self) if one.name != "preset"]
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return replace(PRESETS[preset], **given)


@needs("infer")
@takes_dataclasses
def everything(
    images: Annotated[str, typer.Argument(help="An image, a folder or a quoted glob.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the files go.")] = Path("outputs"),
    format: Annotated[str, typer.Option(help="Any of panel, overlay, json, coco, separated by commas.")] = "panel,json",
    *,
    options: EverythingOptions,
    models: SegmenterOptions,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
) -> None:
    """Find all masks of images from a grid of points, without a question."""
    from rich.progress import Progress

    from segzero import batch_everything
    from segzero.batch_inference import jobs_for_all
    from segzero.segmenter import load_segmenter

    formats = tuple(split_commas(format))
    batch_everything.check_formats(formats)
    settings = options.settings(shipped=models.segmenter is None)
    jobs = jobs_for_all(images)
    model = load_segmenter(segmenter_or_shipped(models.segmenter), models.segmenter_backend, device=models.device)
    failed = 0
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("finding masks", total=len(jobs))
        for outcome in batch_everything.run(model, jobs, settings, out, formats, max_pixels):
            progress.advance(task)
            if outcome.problem:
                failed += 1
                progress.console.print(f"{outcome.job.name}: not done: {outcome.problem}", style="red")
            else:
                count = len(outcome.found)
                progress.console.print(f"{outcome.job.name}: {count} mask{'' if count == 1 else 's'}")
    console.print(f"{len(jobs) - failed} of {len(jobs)} done; files in {out}/")
    if failed:
        raise typer.Exit(2)


@needs("infer")
@takes_dataclasses
def edges(
    images: Annotated[str, typer.Argument(help="An image, a folder or a quoted glob.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the pictures go, NAME_edges.png.")] = Path("outputs"),
    points_per_side: Annotated[int, typer.Option(help="Points in a row of the grid, 1 to 128.")] = 16,
    box_nms_thresh: Annotated[float, typer.Option(help="IoU of boxes of duplicates.")] = 0.7,
    thin: Annotated[bool, typer.Option(help="Edges one pixel wide.")] = True,
    *,
    models: SegmenterOptions,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
) -> None:
    """Draw the edges of images, found by their masks: white on black."""
    from segzero.batch_everything import run_edges
    from segzero.batch_inference import jobs_for_all
    from segzero.segmenter import load_segmenter
    from segzero.segmenter.edges import EDGE_SETTINGS

    settings = replace(EDGE_SETTINGS, points_per_side=points_per_side, box_nms_thresh=box_nms_thresh)
    jobs = jobs_for_all(images)
    model = load_segmenter(segmenter_or_shipped(models.segmenter), models.segmenter_backend, device=models.device)
    failed = 0
    for job, written in run_edges(model, jobs, settings, thin, out, max_pixels):
        if isinstance(written, Path):
            console.print(f"{job.name}: {written}")
        else:
            failed += 1
            console.print(f"{job.name}: not done: {written}", style="red")
    console.print(f"{len(jobs) - failed} of {len(jobs)} done; files in {out}/")
    if failed:
        raise typer.Exit(2)

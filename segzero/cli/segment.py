"""`segzero segment`: masks from points and boxes."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from segzero.cli.options import (
    DeviceOption,
    MaxPixelsOption,
    SegmenterBackendOption,
    SegmenterOption,
    segmenter_or_shipped,
    split_commas,
)
from segzero.extras import needs
from segzero.image_structure import MAX_PIXELS

console = Console(highlight=False, markup=False, emoji=False)  # paths may hold brackets


@needs("infer")
def segment(
    image: Annotated[str, typer.Argument(help="The image.")],
    point: Annotated[list[str] | None, typer.Option(help="x,y in pixels; -x,y is a point outside the object.")] = None,
    box: Annotated[list[str] | None, typer.Option(help="x0,y0,x1,y1 in pixels; each box is an object.")] = None,
    all_masks: Annotated[bool, typer.Option("--all-masks", help="All three readings, best first.")] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the files go.")] = Path("outputs"),
    format: Annotated[
        str, typer.Option(help="Any of panel, overlay, mask, json, coco, separated by commas.")
    ] = "overlay,mask,json",
    segmenter: SegmenterOption = None,
    segmenter_backend: SegmenterBackendOption = "auto",
    device: DeviceOption = "auto",
    max_pixels: MaxPixelsOption = MAX_PIXELS,
) -> None:
    """Draw masks from points and boxes, without a policy."""
    from segzero import point_prompts
    from segzero.batch_inference import check_formats
    from segzero.images import load_image
    from segzero.segmenter import load_segmenter

    formats = tuple(split_commas(format))
    check_formats(formats)
    picture = load_image(image, max_pixels=max_pixels)
    prompts = point_prompts.parse_prompts(point or [], box or [], picture.size)
    model = load_segmenter(segmenter_or_shipped(segmenter), segmenter_backend, device=device)
    for name, result in point_prompts.draw(model, picture, prompts, Path(image).stem, all_masks):
        files = result.save(out, name, formats)
        scores = ", ".join(f"{mask.score:.2f}" for mask in result.instances)
        console.print(f"predicted IoU {scores}: {', '.join(str(file) for file in files.values())}")

"""`segzero words`: all instances of phrases in an image."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from segzero.cli.options import (
    MaxPixelsOption,
    ModelOptions,
    policy_or_shipped,
    segmenter_or_shipped,
    split_commas,
    takes_dataclasses,
)
from segzero.errors import UserError
from segzero.extras import needs
from segzero.image_structure import MAX_PIXELS

if TYPE_CHECKING:
    from segzero.masks import Box
    from segzero.pipeline import SegZeroPipeline
    from segzero.result import Segmentation
    from segzero.segmenter.words import TextSegmenter

console = Console(highlight=False, markup=False, emoji=False)  # paths and phrases may hold brackets


@needs("infer")
@takes_dataclasses
def words(
    image: Annotated[str, typer.Argument(help="The image.")],
    phrases: Annotated[
        list[str], typer.Argument(help='What to look for, such as "red cup"; several are asked at once.')
    ],
    *,
    box_threshold: Annotated[float, typer.Option(help="Lowest score of an instance.")] = 0.30,
    text_threshold: Annotated[float, typer.Option(help="How surely a phrase must be in the picture.")] = 0.25,
    box: Annotated[
        list[str] | None, typer.Option(help="x0,y0,x1,y1 of an example of what is meant; SAM3 only.")
    ] = None,
    not_box: Annotated[list[str] | None, typer.Option(help="x0,y0,x1,y1 of what is not meant; SAM3 only.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the files go.")] = Path("outputs"),
    format: Annotated[
        str, typer.Option(help="Any of panel, overlay, mask, json, coco, separated by commas.")
    ] = "overlay,json",
    models: ModelOptions,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
) -> None:
    """Find all instances of phrases: SAM3 reads them, or a policy finds boxes and SAM2 draws."""
    from segzero.batch_inference import check_formats
    from segzero.images import load_image
    from segzero.pipeline import SegZeroPipeline
    from segzero.point_prompts import parse_box
    from segzero.segmenter.words import check_phrases
    from segzero.words import Thresholds, ask_phrases, find_phrases

    formats = tuple(split_commas(format))
    check_formats(formats)
    thresholds = Thresholds(box_threshold, text_threshold)
    check_phrases(phrases)
    picture = load_image(image, max_pixels=max_pixels)
    examples: list[tuple[Box, int]] = [
        (parse_box(text, picture.size, flag), label)
        for flag, label, texts in (("--box", 1, box or []), ("--not-box", 0, not_box or []))
        for text in texts
    ]
    finder = _load(models, "--box" if box else "--not-box" if not_box else "")
    if isinstance(finder, SegZeroPipeline):
        results = ask_phrases(finder, picture, phrases, thresholds)
    else:
        results = find_phrases(finder, picture, phrases, thresholds, examples)
    for number, result in enumerate(results, 1):
        name = Path(image).stem + (f"_{number}" if len(results) > 1 else "")
        files = result.save(out, name, formats)
        console.print(f"{result.question}: {_told(result)}: {', '.join(str(file) for file in files.values())}")


def _load(models: ModelOptions, box_option: str) -> "TextSegmenter | SegZeroPipeline":
    """Load SAM3 alone, or a policy and a segmenter; options without effect are refused."""
    from segzero.pipeline import SegZeroPipeline
    from segzero.policy import load_policy
    from segzero.segmenter import load_segmenter
    from segzero.segmenter.words import reads_text

    if models.mask_model is not None:
        raise UserError(
            "--mask-model: a mask model draws one mask for a question, without scores of phrases; leave it out"
        )
    backends = models.backends
    segmenter = load_segmenter(
        segmenter_or_shipped(models.segmenter), backends.segmenter_backend, device=backends.device
    )
    if reads_text(segmenter):
        given = {
            "--policy": models.policy,
            "--policy-backend": backends.policy_backend != "auto",
            "--frame": backends.frame,
            "--prompt": backends.prompt,
        }
        if idle := [name for name, value in given.items() if value]:
            raise UserError(f"{segmenter.name} reads phrases itself, without a policy; leave {', '.join(idle)} out")
        return segmenter
    if box_option:
        raise UserError(f"{box_option}: boxes beside phrases are for SAM3; {segmenter.name} reads no text")
    policy = load_policy(
        policy_or_shipped(models.policy),
        backends.policy_backend,
        frame=backends.frame,
        prompt=backends.prompt,
        device=backends.device,
    )
    return SegZeroPipeline(policy, segmenter)


def _told(result: "Segmentation") -> str:
    """Tell what was found, with the numbers that the thresholds are about."""
    if result.error:
        return f"not readable ({result.error})"
    presence = "" if result.presence is None else f", presence {result.presence:.2f}"
    if not result.instances:
        return f"nothing there{presence}"
    return f"{len(result)} found ({', '.join(f'{one.score:.2f}' for one in result)}){presence}"

"""`segzero program`: a program over the models, written by hand or by a language model, run on one image."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from segzero.cli.options import MaxPixelsOption, ModelOptions, split_commas, takes_dataclasses
from segzero.cli.program_writer import LLM_HELP, SCENES, WriterModelOption, writer_address
from segzero.errors import UserError
from segzero.extras import needs
from segzero.image_structure import MAX_PIXELS

if TYPE_CHECKING:
    from segzero.programs.trace import Trace
    from segzero.programs.writer import WrittenProgram

console = Console(highlight=False, markup=False, emoji=False)  # programs hold brackets


@dataclass(frozen=True)
class AuthorOptions:
    """Origin of the program: a file, or a language model."""

    program: Annotated[Path | None, typer.Option(help="A file with the program, instead of --llm.")] = None
    llm: Annotated[str | None, typer.Option(help=LLM_HELP)] = None
    llm_model: WriterModelOption = None

    def write(self, question: str | None) -> "WrittenProgram":
        """Read the program from the file, or let the model write it for the question."""
        from segzero.programs.parser import parse_program
        from segzero.programs.trace import Attempt
        from segzero.programs.writer import ProgramWriter, WrittenProgram

        if (self.program is None) == (self.llm is None):
            what = "both --program and --llm are given" if self.llm else "nobody writes the program"
            raise UserError(
                f"{what}: give --program FILE, or --llm http://HOST:PORT/v1 (--llm {SCENES} for our scenes)"
            )
        if self.program is not None:
            if self.llm_model is not None:
                raise UserError("--llm-model goes with --llm, not with --program")
            return WrittenProgram(parse_program(read_source(self.program)), (Attempt(read_source(self.program)),))
        if question is None:
            raise UserError(
                '--llm writes a program for a question; give one: segzero program IMAGE "question" --llm ...'
            )
        with writer_address(str(self.llm)) as address:
            return ProgramWriter(address, self.llm_model).write(question)


def read_source(path: Path) -> str:
    """Read a program's file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"cannot read the program {path}: {reason}") from error


@needs("infer")
@takes_dataclasses
def program(
    image: Annotated[str, typer.Argument(help="The image.")],
    question: Annotated[str | None, typer.Argument(help="What to look for; --llm writes the program for it.")] = None,
    *,
    author: AuthorOptions,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the files go.")] = Path("outputs"),
    format: Annotated[
        str, typer.Option(help="Beside the trace any of panel, overlay, mask, json, coco, separated by commas.")
    ] = "overlay,json",
    seconds: Annotated[float, typer.Option(help="Time after which no further step begins.", min=0.1)] = 120.0,
    models: ModelOptions,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
) -> None:
    """Run a program of operators over policy and segmenter, and write its trace."""
    from segzero.batch_inference import check_formats
    from segzero.images import load_image
    from segzero.programs.pipeline import unwritten
    from segzero.programs.run import ProgramLimits, run_program
    from segzero.segmenter.everything import PRESETS

    formats = tuple(split_commas(format))
    check_formats(formats)
    if models.mask_model is not None:
        raise UserError("--mask-model: programs need a policy and a segmenter; leave it out")
    picture = load_image(image, max_pixels=max_pixels)
    written = author.write(question)
    if written.program is None:
        trace = unwritten(picture, question or "", written)
    else:
        trace = run_program(
            models.load(),
            picture,
            written.program,
            question or "",
            limits=ProgramLimits(seconds=seconds),
            everything=PRESETS["scenes" if models.segmenter is None else "sam2"],
            attempts=written.attempts,
        )
    _report(trace, out, Path(image).stem, formats)


def _report(trace: "Trace", out: Path, name: str, formats: tuple[str, ...]) -> None:
    """Print the steps and write the files; a program that failed ends with code 2, after its trace is written."""
    for attempt in trace.attempts[:-1]:
        console.print(f"mended: {attempt.problem}", style="yellow", soft_wrap=True)
    for row in trace.rows:
        console.print(f"{row.step.line:3} {row.line_of_text}", soft_wrap=True)
    files = list(trace.save(out, name).values())
    if trace.type == "Masks":
        files += trace.segmentation.save(out, name, formats).values()
    console.print(f"in {', '.join(map(str, files))}", soft_wrap=True)
    if trace.problem:
        raise UserError(f"the program failed: {trace.failure}")

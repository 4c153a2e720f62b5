"""`segzero chat`: ask about an image in several rounds."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from segzero.cli.options import MaxPixelsOption, ModelOptions, RefineOptions, takes_dataclasses
from segzero.extras import needs
from segzero.image_structure import MAX_PIXELS

console = Console(highlight=False, markup=False, emoji=False)  # questions and answers may hold brackets


@needs("infer")
@takes_dataclasses
def chat(
    image: Annotated[str, typer.Argument(help="The image.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where each round's picture goes.")] = Path("dialogue"),
    memory: Annotated[
        str | None,
        typer.Option(help="How earlier rounds are told: text (default), marks or crop; masks to a mask model."),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with a dialogue that /save wrote.")] = None,
    *,
    models: ModelOptions,
    looks: RefineOptions,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
) -> None:
    """Ask about an image in several rounds: refer to what was found, correct it, take it back."""
    from segzero.cli.repl import ChatSession
    from segzero.dialogue.dialogue import Dialogue
    from segzero.dialogue.memory import get_memory
    from segzero.images import load_image

    if memory is not None:
        get_memory(memory)  # an unknown name is reported before models are loaded
    picture = load_image(image, max_pixels=max_pixels)
    pipeline = looks.applied(models.load(by_hand=True))
    if resume is not None:
        dialogue = Dialogue.load(resume, picture, pipeline, memory)
    else:
        dialogue = Dialogue(picture, pipeline, memory)
    session = ChatSession(dialogue, out, lambda line: console.print(line, soft_wrap=True))
    session.print_line("/help tells what can be said; exit ends")
    session.run(input)

"""`segzero chat`: talk about an image at the terminal."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from segzero.model_flags import (
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

console = Console(highlight=False)


def chat(
    image: Annotated[str, typer.Argument(help="The image.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where each round's picture goes.")] = Path("dialogue"),
    memory: Annotated[
        str | None, typer.Option(help="How earlier rounds are told: text (default), marks or crop.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with a dialogue that /save wrote.")] = None,
    policy: PolicyOption = None,
    segmenter: SegmenterOption = None,
    policy_backend: PolicyBackendOption = "auto",
    segmenter_backend: SegmenterBackendOption = "auto",
    frame: FrameOption = None,
    prompt: PromptOption = None,
    device: DeviceOption = "auto",
    max_pixels: Annotated[int, typer.Option(help="Refuse larger images.", min=1)] = 89_000_000,
) -> None:
    """Ask about an image in several rounds: refer to what was found, correct it, take it back."""
    from segzero.dialogue.chat import Chat
    from segzero.dialogue.dialogue import Dialogue
    from segzero.dialogue.memory import get_memory
    from segzero.images import load_image
    from segzero.pipeline import SegZeroPipeline

    def say(text: str) -> None:
        console.print(text, markup=False, emoji=False, soft_wrap=True)

    if memory is not None:
        get_memory(memory)  # before models are loaded
    picture = load_image(image, max_pixels=max_pixels)
    pipeline = SegZeroPipeline.from_pretrained(
        policy_or_shipped(policy),
        segmenter_or_shipped(segmenter),
        policy_backend=policy_backend,
        segmenter_backend=segmenter_backend,
        frame=frame,
        prompt=prompt,
        device=device,
    )
    if resume is not None:
        dialogue = Dialogue.load(resume, picture, pipeline, memory)
    else:
        dialogue = Dialogue(picture, pipeline, memory or "text")
    say("/help tells what can be said; exit ends")
    Chat(dialogue, out, say).run(input)

"""`segzero chat`: talk about an image at the terminal."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False)


def chat(
    image: Annotated[str, typer.Argument(help="The image.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where each round's picture goes.")] = Path("dialogue"),
    memory: Annotated[
        str | None, typer.Option(help="How earlier rounds are told: text (default), marks or crop.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with a dialogue that /save wrote.")] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", help="Folder or hub name of a Qwen-VL checkpoint; default: the shipped one."),
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option("--segmenter", help="Folder or hub name of a SAM2 checkpoint; default: the shipped one."),
    ] = None,
    policy_backend: Annotated[str, typer.Option(help="auto, transformers, vllm or openai.")] = "auto",
    segmenter_backend: Annotated[str, typer.Option(help="auto, transformers or sam2.")] = "auto",
    frame: Annotated[
        str | None, typer.Option(help="stretch(840), native or relative(1000); default: the checkpoint's.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="multi, vision_reasoner or seg_zero; default: the checkpoint's.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
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
    for what, path in (("policy", policy), ("segmenter", segmenter)):
        if path is None:
            say(f"no --{what} given: using the small one that comes with SegZero, made for its synthetic scenes")
    pipeline = SegZeroPipeline.from_pretrained(
        policy,
        segmenter,
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

"""The flags of every command that loads a policy and a segmenter, and what is meant where they are left out."""

from typing import Annotated

import typer

from segzero import shipped

PolicyOption = Annotated[
    str | None,
    typer.Option("--policy", help="Folder, hub name or server of a Qwen-VL checkpoint; default: the shipped one."),
]
SegmenterOption = Annotated[
    str | None, typer.Option("--segmenter", help="Folder or hub name of a SAM2 checkpoint; default: the shipped one.")
]
PolicyBackendOption = Annotated[str, typer.Option(help="auto, transformers, vllm or openai.")]
SegmenterBackendOption = Annotated[str, typer.Option(help="auto, transformers or sam2.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
FrameOption = Annotated[
    str | None, typer.Option(help="stretch(840), native or relative(1000); default: the checkpoint's.")
]
PromptOption = Annotated[
    str | None, typer.Option(help="multi, vision_reasoner or seg_zero; default: the checkpoint's.")
]


def policy_or_shipped(path: str | None) -> str:
    """The path, or that of the shipped policy, after saying so."""
    return path or _shipped("policy", str(shipped.policy_path()))


def segmenter_or_shipped(path: str | None) -> str:
    """The path, or that of the shipped segmenter, after saying so."""
    return path or _shipped("segmenter", str(shipped.segmenter_path()))


def _shipped(what: str, path: str) -> str:
    typer.echo(f"no --{what} given: using the small one that comes with SegZero, made for its synthetic scenes")
    return path

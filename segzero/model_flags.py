"""The flags of every command that loads a policy and a segmenter."""

from typing import Annotated

import typer

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

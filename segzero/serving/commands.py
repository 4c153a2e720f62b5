"""`segzero serve`: parses its flags and starts the server."""

from pathlib import Path
from typing import Annotated

import typer

from segzero.errors import UserError
from segzero.model_flags import (
    DeviceOption,
    FrameOption,
    PolicyBackendOption,
    PolicyOption,
    PromptOption,
    SegmenterBackendOption,
    SegmenterOption,
)


def serve(
    host: Annotated[str, typer.Option(help="127.0.0.1 is this machine only, 0.0.0.0 everybody.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.", min=1, max=65535)] = 8000,
    tokens: Annotated[
        Path | None, typer.Option(help="Bearer tokens, one a line; default: those in $SEGZERO_TOKENS, with commas.")
    ] = None,
    policy: PolicyOption = None,
    segmenter: SegmenterOption = None,
    policy_backend: PolicyBackendOption = "auto",
    segmenter_backend: SegmenterBackendOption = "auto",
    device: DeviceOption = "auto",
    frame: FrameOption = None,
    prompt: PromptOption = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 1024,
    batch: Annotated[int, typer.Option(help="Requests that the models see at once.", min=1)] = 16,
    queue: Annotated[int, typer.Option(help="Requests inside at once; more are sent away (429).", min=1)] = 64,
    seconds: Annotated[float, typer.Option(help="What a request may take (504).", min=0.1)] = 60.0,
    max_megabytes: Annotated[int, typer.Option(help="Of a request's body (413).", min=1)] = 32,
    max_pixels: Annotated[int, typer.Option(help="Of an image (422).", min=1)] = 25_000_000,
    max_question: Annotated[int, typer.Option(help="Characters (422).", min=1)] = 2_000,
    cache_megabytes: Annotated[int, typer.Option(help="Encoded images to keep.", min=0)] = 1024,
) -> None:
    """Answer over HTTP; /docs on the server describes the interface."""
    try:
        from segzero.serving.app import create_app
        from segzero.serving.run import bind
        from segzero.serving.run import serve as run
    except ImportError as error:
        raise UserError(f"the server does not import here ({error}); pip install 'segzero[serve]'") from error
    from segzero.pipeline import SegZeroPipeline
    from segzero.policy import Sampling
    from segzero.serving.limits import Limits, read_tokens
    from segzero.serving.logs import set_up_logs

    known = read_tokens(tokens)
    limits = Limits(
        body=max_megabytes << 20,
        pixels=max_pixels,
        question=max_question,
        inside=queue,
        seconds=seconds,
        batch=batch,
        cache=cache_megabytes << 20,
    )
    address = bind(host, port)
    if not policy or not segmenter:
        typer.echo("models not named are the small ones that come with SegZero, made for its synthetic scenes")
    pipeline = SegZeroPipeline.from_pretrained(
        policy,
        segmenter,
        policy_backend=policy_backend,
        segmenter_backend=segmenter_backend,
        frame=frame,
        prompt=prompt,
        device=device,
        sampling=Sampling(max_tokens=max_tokens),
    )
    set_up_logs()
    typer.echo(f"serving at http://{host}:{port}, described at /docs; {'tokens' if known else 'no token'} needed")
    try:
        run(create_app(pipeline, limits, known), address)
    finally:
        pipeline.policy.close()

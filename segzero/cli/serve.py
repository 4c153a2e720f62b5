"""`segzero serve`: parses its flags and starts the server."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from segzero.cli.options import (
    DeviceOption,
    FrameOption,
    PolicyBackendOption,
    PromptOption,
    SegmenterBackendOption,
)
from segzero.errors import UserError

SEVERAL = "; several times: clients choose, the first is the default"


def serve(
    host: Annotated[str, typer.Option(help="127.0.0.1 is this machine only, 0.0.0.0 every address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.", min=1, max=65535)] = 8000,
    tokens: Annotated[
        Path | None, typer.Option(help="Bearer tokens, one a line; default: those in $SEGZERO_TOKENS, with commas.")
    ] = None,
    everybody: Annotated[
        bool, typer.Option("--open", help="Let everybody in who can reach --host, without tokens.")
    ] = False,
    policy: Annotated[
        list[str] | None, typer.Option(help=f"Folder, hub name or server of a Qwen-VL checkpoint{SEVERAL}.")
    ] = None,
    segmenter: Annotated[
        list[str] | None, typer.Option(help=f"Folder or hub name of a SAM2 checkpoint{SEVERAL}.")
    ] = None,
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
    examples: Annotated[
        Path | None, typer.Option(help="A folder of pictures to begin with; default: synthetic scenes.")
    ] = None,
    flags: Annotated[Path | None, typer.Option(help="Keep answers that people flag in this folder.")] = None,
    fetch_urls: Annotated[
        bool, typer.Option("--fetch-urls", help="Fetch images that are named by their address, from public ones only.")
    ] = False,
    ui: Annotated[bool, typer.Option(help="Show the web page at /ui.")] = True,
) -> None:
    """Answer over HTTP; /docs on the server describes the interface, /ui is a page to try it."""
    try:
        from segzero.serving.app import create_app
        from segzero.serving.server import bind, is_loopback
        from segzero.serving.server import serve as run
    except ImportError as error:
        raise UserError(f"the server does not import here ({error}); pip install 'segzero[serve]'") from error
    from segzero.policy import Sampling
    from segzero.serving.examples import read_examples
    from segzero.serving.feedback import Flags
    from segzero.serving.image_fetch import fetch
    from segzero.serving.limits import Limits, read_tokens
    from segzero.serving.model_pool import Wanted, load
    from segzero.serving.server import set_up_logs

    known = read_tokens(tokens)
    if not known and not everybody and not is_loopback(host):
        raise UserError(
            f"whoever can reach {host} could use this server: add --tokens FILE (or set SEGZERO_TOKENS), or --open to "
            "let everybody in"
        )
    limits = Limits(
        body=max_megabytes << 20,
        pixels=max_pixels,
        question=max_question,
        inside=queue,
        seconds=seconds,
        batch=batch,
        cache=cache_megabytes << 20,
    )
    shown = None if examples is None else read_examples(examples)
    if flags is not None:
        Flags(flags, limits.flags)  # what can't be written is better known before models are loaded
    address = bind(host, port)
    if not policy or not segmenter:
        typer.echo("models not named are the small ones that come with SegZero, made for its synthetic scenes")
    wanted = Wanted(policy_backend, segmenter_backend, device, frame, prompt, Sampling(max_tokens=max_tokens), seconds)
    pipeline, extras = load(policy or [], segmenter or [], wanted)
    extras = replace(extras, examples=shown, flags=flags, fetch=fetch if fetch_urls else None, page=ui)
    set_up_logs()
    typer.echo(f"serving at http://{host}:{port}, described at /docs; {'tokens' if known else 'no token'} needed")
    try:
        run(create_app(pipeline, limits, known, extras), address)
    finally:
        for each in (pipeline.policy, *extras.policies):
            each.close()

"""`segzero serve`: the HTTP server and its options."""

import socket
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segzero.cli.options import BackendOptions, RefineOptions, takes_dataclasses
from segzero.cli.program_writer import LLM_HELP, program_writer
from segzero.errors import UserError
from segzero.extras import needs

if TYPE_CHECKING:
    from segzero.data.annotation import AnnotationProject
    from segzero.pipeline import Pipeline
    from segzero.serving.limits import Limits, Tokens
    from segzero.serving.options import ServerOptions

SEVERAL = "; several times: clients choose, the first is the default"


@dataclass(frozen=True)
class LimitOptions:
    """Bounds of requests, and of all of them together."""

    batch: Annotated[int, typer.Option(help="Requests that the models see at once.", min=1)] = 16
    queue: Annotated[int, typer.Option(help="Requests inside at once; more are sent away (429).", min=1)] = 64
    seconds: Annotated[float, typer.Option(help="Seconds that a request may take (504).", min=0.1)] = 60.0
    max_megabytes: Annotated[int, typer.Option(help="Largest body of a request (413).", min=1)] = 32
    max_pixels: Annotated[int, typer.Option(help="Largest image, in pixels (422).", min=1)] = 25_000_000
    max_question: Annotated[int, typer.Option(help="Longest question, in characters (422).", min=1)] = 2_000
    cache_megabytes: Annotated[int, typer.Option(help="Encoded images to keep.", min=0)] = 1024

    def limits(self) -> "Limits":
        """Convert to the server's limits, which are in bytes."""
        from segzero.serving.limits import Limits

        return Limits(
            body=self.max_megabytes << 20,
            pixels=self.max_pixels,
            question=self.max_question,
            max_concurrent=self.queue,
            seconds=self.seconds,
            batch=self.batch,
            cache=self.cache_megabytes << 20,
        )


@dataclass(frozen=True)
class ServeOptions:
    """Address, models and limits of a server."""

    host: Annotated[str, typer.Option(help="127.0.0.1 is this machine only, 0.0.0.0 every address.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(help="The port.", min=1, max=65535)] = 8000
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="Bearer tokens, one per line, or a name and a token; default: $SEGZERO_TOKENS, separated by commas."
        ),
    ] = None
    everybody: Annotated[
        bool, typer.Option("--open", help="Let everybody in who can reach --host, without tokens.")
    ] = False
    policy: Annotated[
        list[str] | None, typer.Option(help=f"Folder, hub name or server of a Qwen-VL checkpoint{SEVERAL}.")
    ] = None
    segmenter: Annotated[list[str] | None, typer.Option(help=f"Folder or hub name of a SAM2 checkpoint{SEVERAL}.")] = (
        None
    )
    mask_model: Annotated[
        list[str] | None,
        typer.Option(help=f"A mask model that `segzero tune` wrote, beside the policies or alone{SEVERAL}."),
    ] = None
    backends: BackendOptions = field(default_factory=BackendOptions)
    llm: Annotated[str | None, typer.Option(help=f"Writes programs for questions: {LLM_HELP}")] = None
    max_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 1024
    looks: RefineOptions = field(default_factory=RefineOptions)
    limits: LimitOptions = field(default_factory=LimitOptions)
    examples: Annotated[
        Path | None, typer.Option(help="A folder of pictures to begin with; default: synthetic scenes.")
    ] = None
    flags: Annotated[Path | None, typer.Option(help="Keep answers that people flag in this folder.")] = None
    fetch_urls: Annotated[
        bool, typer.Option("--fetch-urls", help="Fetch images that are named by their address, from public ones only.")
    ] = False


@needs("serve")
@takes_dataclasses
def serve(*, options: ServeOptions, ui: Annotated[bool, typer.Option(help="Show the web page at /ui.")] = True) -> None:
    """Answer over HTTP; /docs on the server describes the interface, /ui is a page to try it."""
    run_server(options, ui)


def run_server(options: ServeOptions, page: bool, annotation: "AnnotationProject | None" = None) -> None:
    """Check the options, then load the models, and serve until a signal comes; `annotation` is served beside."""
    from segzero.serving.server import bind

    tokens = _tokens(options)
    limits = options.limits.limits()
    features = _features(options, limits, page)
    address = bind(options.host, options.port)
    with program_writer(options.llm, limits.seconds) as writer:
        pipeline, models = _load_models(options)
        server_options = replace(
            features,
            policies=models.policies,
            segmenters=models.segmenters,
            mask_models=models.mask_models,
            annotation=annotation,
            writer=writer,
        )
        needed = "tokens" if tokens else "no token"
        typer.echo(f"serving at http://{options.host}:{options.port}, described at /docs; {needed} needed")
        _serve(pipeline, limits, tokens, server_options, address)


def _serve(
    pipeline: "Pipeline", limits: "Limits", tokens: "Tokens", server_options: "ServerOptions", address: socket.socket
) -> None:
    """Serve until a signal comes, then close the models."""
    from segzero.serving.app import create_app
    from segzero.serving.server import serve as run
    from segzero.serving.server import set_up_logs

    set_up_logs()
    try:
        run(create_app(pipeline, limits, tokens, server_options), address)
    finally:
        pipeline.close()
        for policy in server_options.policies:
            policy.close()
        for mask_model in server_options.mask_models:
            mask_model.close()


def _tokens(options: ServeOptions) -> "Tokens":
    from segzero.serving.limits import read_tokens
    from segzero.serving.server import is_loopback

    tokens = read_tokens(options.tokens)
    if not tokens and not options.everybody and not is_loopback(options.host):
        raise UserError(
            f"everybody who can reach {options.host} could use this server: add --tokens FILE (or set SEGZERO_TOKENS), "
            "or --open to let everybody in"
        )
    return tokens


def _features(options: ServeOptions, limits: "Limits", page: bool) -> "ServerOptions":
    """Examples, feedback, fetching and the page; folders that can't be used are refused before models are loaded."""
    from segzero.serving.examples import read_examples
    from segzero.serving.feedback import FeedbackStore
    from segzero.serving.image_fetch import fetch
    from segzero.serving.options import ServerOptions

    examples = None if options.examples is None else read_examples(options.examples)
    if options.flags is not None:
        FeedbackStore(options.flags, limits.flags)
    return ServerOptions(examples=examples, flags=options.flags, fetch=fetch if options.fetch_urls else None, page=page)


def _load_models(options: ServeOptions) -> "tuple[Pipeline, ServerOptions]":
    from segzero.policy import Sampling
    from segzero.serving.model_pool import LoadOptions, load_models

    if not (options.policy or options.mask_model) or not options.segmenter:
        typer.echo("models not named are the small ones that come with SegZero, made for its synthetic scenes")
    backends = options.backends
    load_options = LoadOptions(
        backends.policy_backend,
        backends.segmenter_backend,
        backends.device,
        backends.frame,
        backends.prompt,
        Sampling(max_tokens=options.max_tokens),
        options.limits.seconds,
    )
    policies, segmenters, mask_models = options.policy or [], options.segmenter or [], options.mask_model or []
    pipeline, others = load_models(policies, segmenters, load_options, mask_models)
    return options.looks.applied(pipeline), others

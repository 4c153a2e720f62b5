"""The `segzero` command: its subcommands, and how it ends."""

import io
import os
import sys
from typing import Annotated

import typer

from segzero import __version__
from segzero.cli import data, evaluate, rewards
from segzero.cli.chat import chat
from segzero.cli.demo import demo
from segzero.cli.demo_ui import demo_ui
from segzero.cli.docs import docs
from segzero.cli.doctor import doctor
from segzero.cli.everything import edges, everything
from segzero.cli.infer import infer
from segzero.cli.program import program
from segzero.cli.segment import segment
from segzero.cli.serve import serve
from segzero.cli.train import merge, train
from segzero.cli.tune import sft, tune
from segzero.cli.words import words
from segzero.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Segment by reasoning: a question about an image becomes a think-chain, boxes, points and masks.",
)


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Options of `segzero` itself."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


COMMANDS = (
    infer, segment, words, everything, edges, program, demo, train, sft, tune, merge, chat, serve, demo_ui, doctor,
    docs,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
app.add_typer(data.app, name="data")
app.add_typer(evaluate.app, name="eval")
app.add_typer(rewards.app, name="rewards")


def main() -> None:
    """Run the command; a user's mistake is one line and exit code 2."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers obeys it too
    # Policy and segmenter compute side by side; threads that spin while they wait would take each other's cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text, nor answers
    try:
        app()
    except UserError as error:
        print(f"segzero: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

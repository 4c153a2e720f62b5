"""`segzero demo`: the shipped policy before and after a short training."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from segzero.cli.options import PolicyBackendOption
from segzero.extras import needs, require

console = Console(highlight=False, markup=False, emoji=False)  # answers may hold brackets


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path("demo"),
    scenes: Annotated[int, typer.Option(help="How many held-out scenes to show.", min=1)] = 9,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Training steps between the two evaluations; 0 only asks. Default: 100, with --skill 150.", min=0
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Which scenes.", min=0, max=999)] = 0,
    skill: Annotated[
        str, typer.Option(help="Teach a kind of question that the policy was never asked, such as emblem.")
    ] = "",
    policy_backend: PolicyBackendOption = "auto",
) -> None:
    """Watch the shipped policy answer, learn by reinforcement, and answer again."""
    with needs("infer" if steps == 0 else "train"):
        if steps != 0:
            require("verl")
        from segzero.cli.demo_run import run_demo

        run_demo(out, scenes, steps, seed, skill, policy_backend, console)

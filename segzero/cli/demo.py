"""`segzero demo`: the shipped policy before and after a short training."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from segzero.cli.extras import needs
from segzero.cli.options import PolicyBackendOption

console = Console(highlight=False, markup=False, emoji=False)  # answers may hold brackets


@needs("train")
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path("demo"),
    scenes: Annotated[int, typer.Option(help="How many held-out scenes to show.", min=1)] = 9,
    steps: Annotated[int, typer.Option(help="Training steps between the two evaluations; 0 only asks.", min=0)] = 100,
    seed: Annotated[int, typer.Option(help="Which scenes.", min=0, max=999)] = 0,
    policy_backend: PolicyBackendOption = "auto",
) -> None:
    """Watch the shipped policy answer, learn by reinforcement, and answer again."""
    from segzero.cli.demo_run import run_demo

    if steps and find_spec("verl") is None:  # before 200 scenes are answered
        raise ModuleNotFoundError("training needs it, --steps 0 does not", name="verl")
    run_demo(out, scenes, steps, seed, policy_backend, console)

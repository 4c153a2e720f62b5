"""`segzero sft`: supervised fine-tuning of a policy."""

from typing import Annotated

import typer
from rich.console import Console

from segzero.extras import needs

console = Console(highlight=False, markup=False, emoji=False)  # paths may hold brackets


@needs("train")
def sft(
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ...; dry_run=true only explains.")] = None,
) -> None:
    """Teach a policy think-chains and answers by heart, before reinforcement learning."""
    from segzero.supervised.sft import sft as train

    run = train(overrides or [])
    if run is not None:
        console.print(f"the policy is in {run / 'best' if (run / 'best').is_dir() else run / 'last'}")

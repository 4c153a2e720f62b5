"""`segzero sft` and `segzero tune`: supervised training of a policy, and of a mask head."""

from typing import Annotated

import typer
from rich.console import Console

from segzero.extras import needs

console = Console(highlight=False, markup=False, emoji=False)  # paths may hold brackets

Overrides = Annotated[list[str] | None, typer.Argument(help="key=value ...; dry_run=true only explains.")]


@needs("train")
def sft(overrides: Overrides = None) -> None:
    """Teach a policy think-chains and answers by heart, before reinforcement learning."""
    from segzero.supervised.sft import sft as train

    run = train(overrides or [])
    if run is not None:
        console.print(f"the policy is in {run / 'best' if (run / 'best').is_dir() else run / 'last'}")


@needs("train")
def tune(
    overrides: Overrides = None,
    head: Annotated[
        str,
        typer.Option(help="prompt: text states become SAM2's prompts; light: no SAM2; segmenter: SAM2's mask decoder."),
    ] = "prompt",
) -> None:
    """Teach a head to predict masks from a vision-language model's states, or SAM2 from kept masks."""
    if head == "segmenter":
        from segzero.supervised.segmenter import tune_segmenter

        run = tune_segmenter(overrides or [])
    else:
        from segzero.supervised.tune import tune as train

        run = train(head, overrides or [])
    if run is not None:
        made = "segmenter" if head == "segmenter" else "mask model"
        console.print(f"the {made} is in {run / 'best' if (run / 'best').is_dir() else run / 'last'}")

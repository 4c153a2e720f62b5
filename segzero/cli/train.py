"""`segzero train` and `segzero merge`: from training data to a checkpoint that from_pretrained loads."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from segzero.errors import UserError
from segzero.extras import needs

console = Console(highlight=False, markup=False, emoji=False)  # paths may hold brackets


@needs("train")
def train(
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ...; dry_run=true only explains.")] = None,
    config_name: Annotated[str, typer.Option("--config-name", help="A YAML file of configs/.")] = "train",
) -> None:
    """Teach a policy by reinforcement learning (GRPO)."""
    from segzero.training.launch import train as launch

    run = launch(config_name, overrides or [])
    if run is not None:
        console.print(f"the run is in {run}")


@needs("train")
def merge(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="A training checkpoint (global_step_N, or its actor folder), or a folder of adapters."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the Hugging Face checkpoint goes.")],
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    adapter: Annotated[bool, typer.Option("--adapter", help="Only the LoRA adapter, as PEFT loads it.")] = False,
    base: Annotated[str | None, typer.Option(help="Of adapters: their base, if it is not where they say.")] = None,
) -> None:
    """Turn a training checkpoint, or adapters, into a model that Hugging Face's from_pretrained loads."""
    from segzero.supervised.merge_adapters import holds_adapters, merge_adapters
    from segzero.training import merge as merging

    if holds_adapters(checkpoint):
        if adapter:
            raise UserError(f"{checkpoint} holds adapters alone already; leave out --adapter")
        written = merge_adapters(checkpoint, out, dtype, base)
    elif base is not None:
        raise UserError(f"--base is for a folder of adapters, and {checkpoint} is none")
    else:
        written = (merging.export_adapter if adapter else merging.merge)(checkpoint, out, dtype)
    console.print(f"written to {written}")

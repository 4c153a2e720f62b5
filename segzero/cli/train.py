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
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="key=value ..., recipe=star for example; dry_run=true only explains. Or: compare RUN [OTHER_RUN]."
        ),
    ] = None,
    config_name: Annotated[str, typer.Option("--config-name", help="A YAML file of configs/.")] = "train",
) -> None:
    """Teach a policy by reinforcement learning (GRPO); `compare RUN` sets a run's metrics beside a reference."""
    if overrides and overrides[0] == "compare":
        _compare(overrides[1:])
        return
    from segzero.training.launch import train as launch

    run = launch(config_name, overrides or [])
    if run is not None:
        console.print(f"the run is in {run}")


def _compare(runs: list[str]) -> None:
    """Print a run's metrics beside those of another run, or of the shipped reference, and write the page."""
    if len(runs) not in (1, 2):
        raise UserError("name the folder of a run: segzero train compare RUN, or RUN and another run")
    from rich.table import Table

    from segzero.training import reference_curve as curves

    run, *other = [curves.read_run(Path(folder)) for folder in runs]
    reference = other[0] if other else curves.read_reference()
    for line in curves.differences(run, reference):
        console.print(line)
    shown = Table(*curves.COLUMNS, box=None, padding=(0, 2, 0, 0), title=reference.name, title_justify="left")
    for compared in curves.compare_curves(run, reference):
        shown.add_row(*compared.cells)
    console.print(shown)
    console.print(f"the curves are in {curves.write_comparison(Path(runs[0]) / 'compare.html', run, reference)}")


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

"""`segzero data`: annotate, check, show, prepare, select, corrupt, export and make data."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from segzero.cli.annotate import annotate
from segzero.cli.engine import engine, export_runs
from segzero.cli.options import segmenter_or_shipped, split_commas, takes_dataclasses
from segzero.cli.select import select
from segzero.errors import UserError
from segzero.extras import needs, require

if TYPE_CHECKING:
    from segzero.evaluation.benchmarks import Record
    from segzero.sample import Sample

app = typer.Typer(no_args_is_help=True, help="Training and evaluation data.")
app.command()(annotate)
console = Console(highlight=False, markup=False, soft_wrap=True)  # paths and questions may hold brackets

FolderArgument = Annotated[Path, typer.Argument(help="A folder of .parquet files of Samples, or one such file.")]
NewFolderOption = Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")]


@app.command()
@needs("infer")
def check(
    folders: Annotated[list[Path], typer.Argument(help="Folders of .parquet files of Samples, or such files.")],
    page: Annotated[Path | None, typer.Option(help="An HTML file with pictures, to look at.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Benchmarks, with commas, with which the data may share no image either.")
    ] = None,
    data: Annotated[Path, typer.Option(help="The folder below which the benchmarks' data are.")] = Path(),
) -> None:
    """Look data over without a model; exit code 1 when something is wrong. Of several, none may share an image."""
    from segzero.data.check import check as check_folders
    from segzero.data.preview import report_page
    from segzero.io import write_atomically

    report = check_folders(*folders, against=_benchmarks(against, data))
    console.print(str(report))
    if page is not None:
        write_atomically(page, report_page(report, folders).encode("utf-8", "backslashreplace"))
        console.print(f"pictures are in {page}")
    if not report.ok:
        raise typer.Exit(1)


def _benchmarks(names: str | None, root: Path) -> "dict[str, Iterator[Sample]]":
    """The samples of benchmarks, read one at a time; records that can't be read are left out."""
    from segzero.evaluation.benchmarks import get_benchmark
    from segzero.sample import Sample

    def samples(records: "Iterator[Record]") -> "Iterator[Sample]":
        return (record for record in records if isinstance(record, Sample))

    return {name: samples(get_benchmark(name).find(root).read()) for name in split_commas(names or "")}


@app.command()
@needs("infer")
def show(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the pictures and the page go.")] = Path("samples"),
    count: Annotated[int, typer.Option(help="How many samples.", min=1)] = 9,
    seed: Annotated[int, typer.Option(help="Which ones.", min=0)] = 0,
) -> None:
    """Draw a few samples: image, truth and question."""
    from segzero.data.preview import show as draw_samples

    console.print(f"look at {draw_samples(folder, out, count, seed)}")


@dataclass(frozen=True)
class RecipeOptions:
    """Joining, borrowing and filtering of the questions that are read."""

    join: Annotated[float, typer.Option(help="Share of questions joined of several about an image.")] = 0.0
    no_target: Annotated[
        float | None, typer.Option(help="Share of questions to which nothing is the answer; default: as they are.")
    ] = None
    dialogues: Annotated[
        int, typer.Option(help="Questions become dialogues of up to so many rounds, wherever they can.", min=0)
    ] = 0
    filter_iou: Annotated[
        float | None, typer.Option(help="Keep what a segmenter draws with at least this IoU; 0.6 as published.")
    ] = None
    segmenter: Annotated[
        str | None,
        typer.Option("--segmenter", help="SAM2 for --filter-iou: a folder or hub name; default: the shipped one."),
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of joins and borrowed questions.", min=0)] = 0


@dataclass(frozen=True)
class ReadingOptions:
    """Amounts that are read at once and in all, and what happens to bad records."""

    workers: Annotated[int, typer.Option(help="Processes; the files are the same for any number.", min=1)] = 1
    shard_size: Annotated[int, typer.Option(help="Samples read for one file.", min=1)] = 1000
    limit: Annotated[int, typer.Option(help="Read no more samples; 0 reads all.", min=0)] = 0
    strict: Annotated[bool, typer.Option("--strict", help="End at the first record that makes no sense.")] = False


@app.command()
@needs("infer")
@takes_dataclasses
def prepare(
    source: Annotated[str, typer.Argument(help="A folder, a file or a hub name.")],
    format: Annotated[str, typer.Option(help="refer, grefcoco, coco, folder, ...: see `segzero docs data`.")],
    out: NewFolderOption,
    split: Annotated[str, typer.Option(help="Read this split of the source alone.")] = "",
    option: Annotated[list[str] | None, typer.Option(help="The format's own: level=instance, images=...")] = None,
    *,
    recipe: RecipeOptions,
    reading: ReadingOptions,
) -> None:
    """Make training samples of a data set; called again after an interruption, it goes on."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from segzero.data.prepare import prepare as prepare_samples
    from segzero.data.recipe import SampleRecipe

    options = named_options(option or []) | ({"split": split} if split else {})
    columns = (TextColumn("samples read"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=reading.limit or None)
        card = prepare_samples(
            source,
            format,
            out,
            SampleRecipe(recipe.join, recipe.no_target, recipe.dialogues, recipe.filter_iou),
            options=options,
            seed=recipe.seed,
            segmenter=segmenter_or_shipped(recipe.segmenter) if recipe.filter_iou is not None else "",
            workers=reading.workers,
            shard_size=reading.shard_size,
            limit=reading.limit,
            strict=reading.strict,
            progress=lambda read: bar.update(task, completed=read),
        )
    console.print(f"{card}\nin {out}/; look at it: segzero data check {out}")


@app.command()
@needs("infer")
def corrupt(
    folder: FolderArgument,
    out: NewFolderOption,
    predictions: Annotated[
        Path | None, typer.Option(help="predictions.jsonl of `segzero eval` on these samples: masks a policy drew.")
    ] = None,
    drawn: Annotated[float, typer.Option(help="Share of those masks that are shown.")] = 0.5,
    plain: Annotated[float, typer.Option(help="Share of samples that stay questions without a mask.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn by chance.", min=0)] = 0,
) -> None:
    """Give samples masks to keep or to correct, for a policy that looks at its masks; val*.parquet stays as it is."""
    from segzero.refinement.corruption import drawn_masks
    from segzero.refinement.files import JudgingRecipe, corrupt_files

    recipe = JudgingRecipe(drawn, plain, seed)
    masks = None
    if predictions is not None:
        from segzero.evaluation.predictions import Predictions

        with Predictions.open(predictions, write=False) as lines:
            answered = ((line.id, [each.mask for each in line.objects]) for line in lines if line.error is None)
            masks = drawn_masks(answered)
    files, counts = corrupt_files(folder, out, recipe, masks)
    console.print(f"{counts}\n{len(files)} files in {out}/; look at it: segzero data check {out}")


@app.command()
@needs("infer")
def export(
    folder: FolderArgument,
    to: Annotated[str, typer.Option(help="coco, refcoco, converseg, label-studio or fiftyone.")],
    out: NewFolderOption,
) -> None:
    """Write samples as other tools read them."""
    from segzero.data.exports import export as export_samples

    done = export_samples(folder, to, out)
    console.print(f"{done.samples} samples in {out}/")
    if done.left_out:
        console.print(f"{len(done.left_out)} are in left_out.txt instead; first: {done.left_out[0]}")


@app.command()
@needs("infer")
def scenes(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    train: Annotated[int, typer.Option(help="Training samples.", min=0)] = 1920,
    val: Annotated[int, typer.Option(help="Validation samples.", min=0)] = 200,
    questions: Annotated[int, typer.Option(help="Most questions about a training scene.", min=1)] = 1,
    compositional: Annotated[
        int,
        typer.Option(help="Samples of the benchmark of that name: relations of relations, exclusions, counts.", min=0),
    ] = 0,
) -> None:
    """Make data of synthetic scenes, which the shipped models can learn from: train.parquet, val.parquet."""
    from segzero.tiny.scene_files import write_scenes

    require("datasets")
    for file in write_scenes(folder, train, val, questions, compositional):
        console.print(str(file))


app.command()(engine)
app.command()(export_runs)
app.command()(select)


def named_options(written: list[str]) -> dict[str, str]:
    """Read NAME=VALUE options.

    >>> named_options(["level=instance"])
    {'level': 'instance'}
    """
    pairs = [text.partition("=") for text in written]
    wrong = [text for text, (name, mark, _) in zip(written, pairs, strict=True) if not name or not mark]
    if wrong:
        raise UserError(f"--option {wrong[0]!r} must be NAME=VALUE, such as level=instance")
    return {name: value for name, _, value in pairs}

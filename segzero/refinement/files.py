"""Files of samples turned into files of samples that have masks to judge.

Those of validation (`val*.parquet`) are copied as they are: figures are of questions, not of judgements.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np

from segzero.data.parquet import from_parquet, parquet_files, to_parquet
from segzero.errors import UserError
from segzero.masks import RLE
from segzero.refinement.corruption import CorruptionCounts, judging_samples
from segzero.sample import Sample

AT_ONCE = 1000  # samples in memory; those about one image should follow each other


@dataclass(frozen=True)
class JudgingRecipe:
    """Settings of `segzero data corrupt`."""

    drawn: float = 0.5  # share of the masks that a policy drew, of the samples that have one
    plain: float = 0.3  # share of samples that stay questions without a mask
    seed: int = 0

    def __post_init__(self) -> None:
        for name, share in (("drawn masks", self.drawn), ("plain samples", self.plain)):
            if not 0 <= share <= 1:
                raise UserError(f"the share of {name} must be 0 to 1, not {share}")


def corrupt_files(
    source: Path, out: Path, recipe: JudgingRecipe, drawn: Mapping[str, RLE] | None = None
) -> tuple[list[Path], CorruptionCounts]:
    """Write each file of `source` into the folder `out`; returns their paths, and what the masks in them are."""
    files, counts = parquet_files(source), CorruptionCounts()
    if out.resolve() in {file.parent.resolve() for file in files}:
        raise UserError(f"{out} is where the samples are, and they would be replaced; choose another --out")
    written = []
    for number, file in enumerate(files):
        samples = from_parquet(file)
        if not file.name.startswith("val"):
            samples = with_masks(samples, recipe, (recipe.seed, number), counts, drawn)
        written.append(to_parquet(samples, out / file.name))
    if drawn and not counts.met:
        raise UserError(f"none of the {len(drawn)} predictions is of a sample in {source}: they are of other data")
    return written, counts


def with_masks(
    samples: Iterator[Sample],
    recipe: JudgingRecipe,
    seed: tuple[int, ...],
    counts: CorruptionCounts,
    drawn: Mapping[str, RLE] | None = None,
) -> Iterator[Sample]:
    """Give most samples a mask to judge, and leave the plain ones; the same seed gives the same masks."""
    for part in count():
        some = list(islice(samples, AT_ONCE))
        if not some:
            return
        plain = np.random.default_rng((*seed, part)).random(len(some)) < recipe.plain
        yield from judging_samples(some, (*seed, part), counts, drawn, recipe.drawn, plain.tolist())

"""Synthetic scenes as training data on disk.

>>> write_scenes("data/scenes", train=1920, val=200)                          # doctest: +SKIP
(PosixPath('data/scenes/train.parquet'), PosixPath('data/scenes/val.parquet'))
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from segzero.data.parquet import to_parquet
from segzero.errors import UserError
from segzero.sample import Sample
from segzero.tiny.compositional import compositional_samples
from segzero.tiny.questions import HELD_OUT_SEED, make_samples, make_shared_samples, make_training_samples

TRAIN_SEED = 7_000  # none of the seeds that the shipped models were trained with
VALIDATION_SEED = HELD_OUT_SEED + 7
COMPOSITIONAL_SEED = HELD_OUT_SEED + 17


def write_scenes(
    folder: str | Path, train: int = 1920, val: int = 200, questions: int = 1, compositional: int = 0
) -> tuple[Path, ...]:
    """Write train.parquet and val.parquet with so many samples; the same numbers always give the same samples.

    With `questions` above 1 there are up to so many questions about each training scene, of different kinds.
    `compositional`: samples of the benchmark of that name. Where a number is 0, there is no file.
    """
    folder = Path(folder)
    if not (train or val or compositional):
        raise UserError("nothing to make: the numbers of samples are all 0")
    if questions > 1:
        training: Iterator[Sample] = islice(make_shared_samples(questions, TRAIN_SEED), train)
    else:
        training = iter(make_training_samples(train, TRAIN_SEED))
    wanted: list[tuple[int, str, Callable[[], Iterable[Sample]]]] = [
        (train, "train", lambda: training),
        (val, "val", lambda: make_samples(val, VALIDATION_SEED)),
        (compositional, "compositional", lambda: compositional_samples(compositional, COMPOSITIONAL_SEED)),
    ]
    return tuple(to_parquet(samples(), folder / f"{name}.parquet") for count, name, samples in wanted if count)

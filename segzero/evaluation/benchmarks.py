"""Benchmarks of configs/eval, each a few lines of YAML, and the records of their data.

>>> benchmark = get_benchmark("reasonseg_val")
>>> benchmark.reader, benchmark.options, benchmark.level
('reason_seg', {'split': 'val'}, 'question')
>>> records = Records(benchmark.find("data"))                                     # doctest: +SKIP
>>> survey(records)                                                               # doctest: +SKIP
Survey(samples=200, problems=[], dialogues=False)
>>> [record.question for record in records]                                       # doctest: +SKIP
"""

import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from segzero.data.parquet import from_parquet
from segzero.errors import UserError, unknown_name
from segzero.evaluation.scoring import check_truth
from segzero.masks import union
from segzero.sample import Sample
from segzero.shipped import config_dir

OWN = "own"  # the reader of own data: .parquet files of Samples, or a folder with a table of prompts
KEPT_BYTES = 1 << 27  # size, pickled, up to which the records of a benchmark are kept in memory


@dataclass(frozen=True)
class Benchmark:
    """One entry of configs/eval. Its data are at `path` below the data root, or on the hub."""

    name: str
    reader: str  # a format of segzero.data.readers, or `own`
    level: str  # subject of one sample: expression, instance, question, category, image or round
    ignore: str  # treatment of ignored pixels, for the protocol
    path: str = ""
    hub: str = ""
    images: str = ""  # folder of the images below the data root, for readers that cannot know it
    options: Mapping[str, str] = field(default_factory=dict)  # of the reader
    keep: Mapping[str, Any] = field(default_factory=dict)  # values that a sample's meta must have
    count: int | None = None  # samples of the published set
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # model -> figure, in percent
    note: str = ""

    def find(self, root: str | Path) -> "Task":
        """Find the benchmark's data below the root or on the hub."""
        root = Path(root)
        places = [root / self.path] if self.path else [root / self.hub, root / Path(self.hub).name]
        source = next((str(place.absolute()) for place in places if place.exists()), self.hub)
        if not source:
            what = "them" if self.name == OWN else f"the folder that holds {self.path}"
            raise UserError(f"no data of {self.name} at {places[0]}; --data names {what}")
        return Task(self, source, str((root / self.images).absolute()) if self.images else "")

    def is_at(self, root: str | Path) -> bool:
        """True when its data are below the root."""
        return self.find(root).source != self.hub if self.hub else (Path(root) / self.path).exists()


@cache
def load_benchmarks() -> dict[str, Benchmark]:
    """Load every benchmark of configs/eval, by name."""
    import yaml

    benchmarks: dict[str, Benchmark] = {}
    for file in sorted((config_dir() / "eval").glob("*.yaml")):
        for name, entry in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            if name.startswith("_"):  # an anchor that several entries share
                continue
            unknown = entry.keys() - {known.name for known in fields(Benchmark)}
            if unknown or name in benchmarks:
                raise UserError(f"{file}: {name} is there twice, or has unknown keys {sorted(unknown)}")
            benchmarks[name] = Benchmark(name, **entry)
    return benchmarks


def get_benchmark(name: str) -> Benchmark:
    """Find a benchmark by name; an unknown name is the user's mistake."""
    known = load_benchmarks()
    if name not in known:
        raise unknown_name("benchmark", name, ["all", *known])
    return known[name]


@dataclass(frozen=True)
class Unreadable:
    """A record that its reader could not make a Sample of. It counts as failed, in every denominator."""

    id: str
    problem: str


Record = Sample | Unreadable  # one record of a benchmark, as its reader gives it


@dataclass(frozen=True)
class Task:
    """A benchmark with the place of its data, a path or a hub name."""

    benchmark: Benchmark
    source: str
    images: str = ""
    limit: int | None = None  # number of records to take, from the first

    def read(self) -> Iterator[Record]:
        """Read each sample of the benchmark, and each record that should have been one, in order."""
        return islice(self._read(), self.limit)

    def _read(self) -> Iterator[Record]:
        problems: list[str] = []  # the reader adds to these while it goes on
        yielded = 0  # problems
        seen: set[str] = set()
        for sample in self._samples(problems):
            while yielded < len(problems):
                yield Unreadable(f"unreadable-{yielded}", problems[yielded])
                yielded += 1
            if any(sample.meta.get(name) != value for name, value in self.benchmark.keep.items()):
                continue
            if sample.id in seen:
                raise UserError(f"{self.source}: two samples have the id {sample.id!r:.80}; ids must differ")
            seen.add(sample.id)
            yield sample
        yield from (Unreadable(f"unreadable-{number}", problems[number]) for number in range(yielded, len(problems)))

    def _samples(self, problems: list[str]) -> Iterator[Sample]:
        from segzero.data.readers import read

        options = dict(self.benchmark.options) | ({"images": self.images} if self.images else {})
        if self.benchmark.reader != OWN:
            return read(self.source, self.benchmark.reader, problems, **options)
        path = Path(self.source)
        if path.suffix == ".parquet" or any(path.glob("*.parquet")):
            return _with_valid_masks(from_parquet(path), problems)
        return read(self.source, "folder", problems, **options)


def _with_valid_masks(samples: Iterable[Sample], problems: list[str]) -> Iterator[Sample]:
    """Yield the samples whose masks can be decoded and are as large as their image; list the others as problems."""
    for sample in samples:
        try:
            union([rle for rle in [*(o.rle for o in sample.objects), sample.ignore] if rle], sample.size)
        except UserError as error:
            problems.append(f"sample {sample.id!r:.80}: {error}")
        else:
            yield sample


class Records:
    """Every record of a task, in order, for any number of passes.

    The first whole pass keeps the records if they are small, and later passes take those. Larger data are read again
    by each pass, so that memory stays bounded.
    """

    def __init__(self, task: Task, kept_bytes: int = KEPT_BYTES) -> None:
        self.task, self.kept_bytes = task, kept_bytes
        self._kept: list[Record] | None = None

    def __iter__(self) -> Iterator[Record]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Record] = []
        room = self.kept_bytes
        for record in self.task.read():
            if room > 0:
                room -= len(pickle.dumps(record))
                kept.append(record)
            else:
                kept.clear()
            yield record
        if room > 0:
            self._kept = kept


class Survey(NamedTuple):
    """Number of records of a benchmark, and what there is to know before a model is loaded."""

    samples: int  # records that cannot be read included
    problems: list[str]  # one for each record that cannot be read
    dialogues: bool  # some sample has earlier rounds


def survey(records: Iterable[Record]) -> Survey:
    """Look through the records; a truth that cannot be scored is refused here, before anything is computed."""
    count, problems, dialogues = 0, [], False
    for record in records:
        count += 1
        if isinstance(record, Unreadable):
            problems.append(record.problem)
        else:
            dialogues = dialogues or bool(record.turns)
            check_truth(record)
    return Survey(count, problems, dialogues)

"""What can be evaluated: the benchmarks of configs/eval, each a few lines of YAML, and where their data are.

>>> benchmark = load_benchmarks()["reasonseg_val"]
>>> benchmark.reader, benchmark.options, benchmark.level
('reason_seg', {'split': 'val'}, 'question')
>>> for sample in Task(benchmark, "data/reason_seg/ReasonSeg").read():            # doctest: +SKIP
...     print(sample.id)
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from segzero.data.parquet import from_parquet
from segzero.errors import UserError, unknown_name
from segzero.masks import union
from segzero.sample import Sample
from segzero.shipped import config_dir

OWN = "own"  # the reader of own data: .parquet files of Samples, or a folder with a table of prompts


@dataclass(frozen=True)
class Benchmark:
    """One entry of configs/eval. Its data are at `path` below the data root, or on the hub."""

    name: str
    reader: str  # a format of segzero.data.readers, or `own`
    level: str  # what one sample is: expression, instance, question, category, image or round
    ignore: str  # what becomes of ignored pixels
    path: str = ""
    hub: str = ""
    images: str = ""  # the folder of the images below the data root, where the reader can't know it
    options: Mapping[str, str] = field(default_factory=dict)  # the reader's own
    keep: Mapping[str, Any] = field(default_factory=dict)  # only Samples whose meta says so
    count: int | None = None  # samples of the published set
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # model -> figure, in percent
    note: str = ""

    def find(self, root: str | Path) -> "Task":
        """The benchmark with its data, below the root or on the hub."""
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


@dataclass(frozen=True)
class Unreadable:
    """A record that its reader could not make a Sample of. It counts as failed: no denominator loses it."""

    id: str
    problem: str


Item = Sample | Unreadable  # one record of a benchmark, as its reader gives it


@dataclass(frozen=True)
class Task:
    """A benchmark and where its data are: a path or a hub name."""

    benchmark: Benchmark
    source: str
    images: str = ""
    limit: int | None = None  # only so many, the first
    history: str | None = None  # of dialogues: what earlier rounds are, true or predicted

    def read(self) -> Iterator[Sample | Unreadable]:
        """Each sample of the benchmark, and each record that should have been one, in order."""
        return islice(self._read(), self.limit)

    def _read(self) -> Iterator[Sample | Unreadable]:
        problems: list[str] = []
        told = 0
        seen: set[str] = set()
        for sample in self._samples(problems):
            while told < len(problems):
                yield Unreadable(f"unreadable-{told}", problems[told])
                told += 1
            if any(sample.meta.get(name) != value for name, value in self.benchmark.keep.items()):
                continue
            if sample.id in seen:
                raise UserError(f"{self.source}: two samples have the id {sample.id!r:.80}; ids must differ")
            seen.add(sample.id)
            yield sample
        yield from (Unreadable(f"unreadable-{number}", problems[number]) for number in range(told, len(problems)))

    def _samples(self, problems: list[str]) -> Iterator[Sample]:
        from segzero.data.readers import read

        options = dict(self.benchmark.options) | ({"images": self.images} if self.images else {})
        if self.benchmark.reader != OWN:
            return read(self.source, self.benchmark.reader, problems, **options)
        path = Path(self.source)
        if path.suffix == ".parquet" or any(path.glob("*.parquet")):
            return _fitting(from_parquet(path), problems)
        return read(self.source, "folder", problems, **options)


def _fitting(samples: Iterable[Sample], problems: list[str]) -> Iterator[Sample]:
    """The samples whose masks can be decoded and are as large as their image; the others are listed."""
    for sample in samples:
        try:
            union([rle for rle in [*(o.rle for o in sample.objects), sample.ignore] if rle], sample.size)
        except UserError as error:
            problems.append(f"sample {sample.id!r:.80}: {error}")
        else:
            yield sample


@cache
def load_benchmarks() -> dict[str, Benchmark]:
    """Every benchmark of configs/eval by name."""
    import yaml

    found: dict[str, Benchmark] = {}
    for file in sorted((config_dir() / "eval").glob("*.yaml")):
        for name, entry in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            if name.startswith("_"):  # what several entries share
                continue
            unknown = entry.keys() - {known.name for known in fields(Benchmark)}
            if unknown or name in found:
                raise UserError(f"{file}: {name} is there twice, or has unknown keys {sorted(unknown)}")
            found[name] = Benchmark(name, **entry)
    return found


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of that name; an unknown name is the user's mistake."""
    known = load_benchmarks()
    if name not in known:
        raise unknown_name("benchmark", name, ["all", *known])
    return known[name]

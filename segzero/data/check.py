"""A folder of Samples looked over without a model: what is in it, and which samples can't be right.

>>> report = check("data/scenes")                           # doctest: +SKIP
>>> print(report)                                           # doctest: +SKIP
27 samples of 27 images (224x224): 18 train, 9 val
3 with nothing there, the others with up to 2 objects
seg_zero         the truth earns the most in 21 of 21; 6 are not for it, or lack points or masks
seg_zero_strict  the truth earns the most in 21 of 21; 6 are not for it, or lack points or masks
vision_reasoner  the truth earns the most in 24 of 24; 3 are not for it, or lack points or masks
soft             the truth earns the most in 27 of 27
mask             the truth earns the most in 27 of 27
nothing is wrong
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rewards import PRESETS
from segzero.data.parquet import from_parquet, parquet_files
from segzero.data.validation import losses, problems, true_answer
from segzero.errors import UserError
from segzero.frames import Size
from segzero.sample import Sample

__all__ = ["Report", "check", "samples_of", "true_answer"]

SHOWN = 5  # ids in the table; `Report.wrong` has them all


@dataclass
class Report:
    """What a folder holds; `wrong` maps what is wrong to the ids of the samples."""

    samples: int = 0
    images: int = 0
    nothing_there: int = 0
    repeated: int = 0  # ask what another one asks of the same image, as some published sets do
    splits: Counter[str] = field(default_factory=Counter)
    objects: Counter[int] = field(default_factory=Counter)  # how many a sample has -> samples
    sizes: list[Size] = field(default_factory=list)  # smallest and largest image, by pixels
    scored: Counter[str] = field(default_factory=Counter)  # preset -> samples it can score
    highest: Counter[str] = field(default_factory=Counter)  # preset -> those whose truth earns the most
    wrong: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, *ids: str) -> None:
        """Note that something is wrong with these samples."""
        self.wrong.setdefault(what, []).extend(ids)

    @property
    def ok(self) -> bool:
        """Nothing is wrong; else the command's exit code is 1."""
        return not self.wrong

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {split or 'of no split'}" for split, count in sorted(self.splits.items()))
        sizes = " to ".join(f"{width}x{height}" for width, height in dict.fromkeys(self.sizes))
        most = max(self.objects, default=0)
        lines = [
            f"{self.samples} samples of {self.images} images ({sizes}): {splits}",
            f"{self.nothing_there} with nothing there, the others with up to {most} objects",
        ]
        if self.repeated:
            lines.append(f"{self.repeated} ask what another one asks of the same image")
        for preset in PRESETS:
            left = self.samples - self.scored[preset]
            other = f"; {left} are not for it, or lack points or masks" if left else ""
            lines.append(
                f"{preset:16} the truth earns the most in {self.highest[preset]} of {self.scored[preset]}{other}"
            )
        for what, ids in sorted(self.wrong.items()):
            more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
            lines.append(f"WRONG: {what}: {', '.join(ids[:SHOWN])}{more}")
        return "\n".join(lines if self.wrong else [*lines, "nothing is wrong"])


def check(*folders: str | Path) -> Report:
    """Look at every Sample of a folder's .parquet files, or of one such file; of several, also for shared images."""
    report = Report()
    seen: set[tuple[Path, str]] = set()
    images: dict[bytes, tuple[Size, bytes] | None] = {}  # path or content -> size and what the pixels are
    asked: set[tuple[bytes, str]] = set()
    places: dict[bytes, dict[str, str]] = defaultdict(dict)  # pixels -> split -> the first sample's id
    for folder, split, sample in samples_of(folders):
        report.samples += 1
        report.splits[split] += 1
        report.nothing_there += sample.empty
        report.objects[len(sample.objects)] += 1
        if (folder, sample.id) in seen:
            report.add("its id is another's too", sample.id)
        seen.add((folder, sample.id))
        key = _key(sample)
        if key not in images:
            images[key] = _look(sample)
        for what in [*_image_problems(sample, images[key]), *problems(sample)]:
            report.add(what, sample.id)
        if (found := images[key]) is not None:
            places[found[1]].setdefault(split, sample.id)
            question = (found[1], " ".join(sample.question.lower().split()))
            report.repeated += question in asked
            asked.add(question)
        for preset, terms in losses(sample).items():
            report.scored[preset] += 1
            report.highest[preset] += not terms
            if terms:
                report.add(f"the truth loses points under {preset}: {', '.join(terms)}", sample.id)
    if not report.samples:
        raise UserError(f"{', '.join(map(str, folders))} holds no samples; see docs/data.md")
    for ids in places.values():
        if len(ids) > 1:
            report.add(f"its image is in {' and '.join(sorted(map(repr, ids)))}", *ids.values())
    known = sorted({found[0] for found in images.values() if found}, key=math.prod)
    report.sizes = [known[0], known[-1]] if known else []
    report.images = len(places) + sum(found is None for found in images.values())
    return report


def samples_of(folders: Sequence[str | Path]) -> Iterator[tuple[Path, str, Sample]]:
    """Each sample with its folder and its split.

    Of several files, splits are what the files are called, as in train-0-of-2.parquet; of several folders, the
    folder's name stands before.
    """
    for folder in map(Path, folders):
        files = parquet_files(folder)
        names = {file.stem.split("-")[0] for file in files}
        for file in files:
            for sample in from_parquet(file):
                split = file.stem.split("-")[0] if len(names) > 1 else sample.split
                yield folder, f"{folder}: {split or folder.stem}" if len(folders) > 1 else split, sample


def _key(sample: Sample) -> bytes:
    return sample.image.encode() if isinstance(sample.image, str) else hashlib.sha256(sample.image).digest()


def _look(sample: Sample) -> tuple[Size, bytes] | None:
    """The image's size and a hash of its pixels, the same for the same picture in another file; None: undecodable."""
    try:
        image = sample.open()
    except UserError:
        return None
    return image.size, hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()


def _image_problems(sample: Sample, found: tuple[Size, bytes] | None) -> Iterator[str]:
    if found is None:
        yield "its image is absent or can't be decoded"
    elif found[0] != sample.size:
        yield "its image has another size than it says"

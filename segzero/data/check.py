"""Checks of a folder of Samples without a model: what it holds, and which samples can't be right.

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

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rewards import PRESETS
from segzero.data.near_copies import near_copies, thumbnail
from segzero.data.parquet import from_parquet, parquet_files
from segzero.data.validation import imperfect_terms, problems
from segzero.errors import UserError
from segzero.frames import Size
from segzero.images import image_key, pixels_key
from segzero.sample import Sample

SHOWN_IDS = 5  # ids per problem in the table; `DataReport.wrong` has them all


@dataclass
class DataReport:
    """Counts of the samples in some folders; `wrong` maps each problem to the ids of its samples."""

    samples: int = 0
    images: int = 0
    nothing_there: int = 0
    repeated: int = 0  # samples that repeat a question about the same image, as some published sets do
    splits: Counter[str] = field(default_factory=Counter)
    objects: Counter[int] = field(default_factory=Counter)  # number of objects -> samples
    sizes: list[Size] = field(default_factory=list)  # smallest and largest image, by pixels
    scored: Counter[str] = field(default_factory=Counter)  # preset -> samples it can score
    highest: Counter[str] = field(default_factory=Counter)  # preset -> samples whose truth gets its highest reward
    wrong: dict[str, list[str]] = field(default_factory=dict)

    def add(self, problem: str, *ids: str) -> None:
        """Add a problem of these samples."""
        self.wrong.setdefault(problem, []).extend(ids)

    @property
    def ok(self) -> bool:
        """True if nothing is wrong; otherwise the command's exit code is 1."""
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
            unscored = self.samples - self.scored[preset]
            rest = f"; {unscored} are not for it, or lack points or masks" if unscored else ""
            lines.append(
                f"{preset:16} the truth earns the most in {self.highest[preset]} of {self.scored[preset]}{rest}"
            )
        for problem, ids in sorted(self.wrong.items()):
            more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
            lines.append(f"WRONG: {problem}: {', '.join(ids[:SHOWN_IDS])}{more}")
        return "\n".join(lines if self.wrong else [*lines, "nothing is wrong"])


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """Size of an image, a hash of its pixels, which is the same for the same picture in another file, a thumbnail."""

    size: Size
    pixels: str
    thumbnail: NDArray[np.uint8]  # [16, 16, 3]


def check(*folders: str | Path, against: Mapping[str, Iterable[Sample]] | None = None) -> DataReport:
    """Check every Sample of some folders of .parquet files, or of such files; no two folders may share an image.

    Nor may the data share one with the samples `against` which they are checked, such as a benchmark's, by name.
    """
    report = DataReport()
    seen_ids: set[tuple[Path, str]] = set()
    images: dict[str, ImageFacts | None] = {}  # by path or content; None: it can't be decoded
    questions: set[tuple[str, str]] = set()
    splits_of: dict[str, dict[str, str]] = defaultdict(dict)  # pixels -> split -> the first sample's id
    for folder, split, sample in read_folders(folders):
        report.samples += 1
        report.splits[split] += 1
        report.nothing_there += sample.empty
        report.objects[len(sample.objects)] += 1
        if (folder, sample.id) in seen_ids:
            report.add("its id is another's too", sample.id)
        seen_ids.add((folder, sample.id))
        key = image_key(sample.image)
        if key not in images:
            images[key] = _image_facts(sample)
        for problem in [*_image_problems(sample, images[key]), *problems(sample)]:
            report.add(problem, sample.id)
        if (image := images[key]) is not None:
            splits_of[image.pixels].setdefault(split or folder.stem, sample.id)
            question = (image.pixels, " ".join(sample.question.lower().split()))
            report.repeated += question in questions
            questions.add(question)
        _add_rewards(report, sample)
    if not report.samples:
        raise UserError(f"{', '.join(map(str, folders))} holds no samples; see `segzero docs data`")
    sizes = sorted({image.size for image in images.values() if image}, key=math.prod)
    report.sizes = [sizes[0], sizes[-1]] if sizes else []
    report.images = len(splits_of) + sum(image is None for image in images.values())
    of_data = {split for splits in splits_of.values() for split in splits}
    for name, samples in (against or {}).items():
        _add_foreign(report, name, samples, images, splits_of)
    _add_leaks(report, splits_of, {one.pixels: one for one in images.values() if one}, of_data)
    return report


def _add_foreign(
    report: DataReport,
    name: str,
    samples: Iterable[Sample],
    images: dict[str, ImageFacts | None],
    splits_of: dict[str, dict[str, str]],
) -> None:
    """Note the images that the data are checked against; they are compared, and nothing else about them is checked."""
    unreadable = 0
    for sample in samples:
        key = image_key(sample.image)
        if key not in images:
            images[key] = _image_facts(sample)
            unreadable += images[key] is None
        if (image := images[key]) is not None:
            splits_of[image.pixels].setdefault(name, sample.id)
    if unreadable:
        report.add(f"{unreadable} images of {name} can't be decoded, and were not compared")


def _add_leaks(
    report: DataReport,
    splits_of: Mapping[str, Mapping[str, str]],
    images: Mapping[str, ImageFacts],
    of_data: Collection[str],
) -> None:
    """Add images that two splits share, as they are or as a copy that was resized, stretched or compressed again.

    `splits_of` maps pixels to the first sample of each split, and `of_data` names the splits whose samples are listed.
    """
    for ids in splits_of.values():
        own = [id for split, id in ids.items() if split in of_data]
        if len(ids) > 1 and own:
            report.add(f"its image is in {' and '.join(sorted(map(repr, ids)))}", *own)
    names = sorted({split for splits in splits_of.values() for split in splits})
    rows = [(pixels, names.index(split)) for pixels, splits in splits_of.items() for split in splits]
    for pair in near_copies([images[pixels].thumbnail for pixels, _ in rows], [group for _, group in rows]):
        (first, one), (second, other) = (rows[place] for place in pair)
        own = [
            splits_of[pixels][names[split]] for pixels, split in map(rows.__getitem__, pair) if names[split] in of_data
        ]
        if own and first != second:  # the same pixels are a problem already
            both = " and ".join(sorted((repr(names[one]), repr(names[other]))))
            report.add(f"its image is nearly that of another sample, in {both}", *own)


def read_folders(folders: Sequence[str | Path]) -> Iterator[tuple[Path, str, Sample]]:
    """Read the samples of some folders, each with its folder and the name of its split.

    If a folder's files begin with different words, as train-0-of-2.parquet and val.parquet do, these are the splits.
    With several folders, the folder's name stands before the split.
    """
    for folder in map(Path, folders):
        files = parquet_files(folder)
        names = {file.stem.split("-")[0] for file in files}
        for file in files:
            for sample in from_parquet(file):
                split = file.stem.split("-")[0] if len(names) > 1 else sample.split
                yield folder, f"{folder}: {split or folder.stem}" if len(folders) > 1 else split, sample


def _add_rewards(report: DataReport, sample: Sample) -> None:
    """Count the presets that can score the sample, and those under which its truth gets the highest reward."""
    for preset, terms in imperfect_terms(sample).items():
        report.scored[preset] += 1
        report.highest[preset] += not terms
        if terms:
            report.add(f"the truth loses points under {preset}: {', '.join(terms)}", sample.id)


def _image_facts(sample: Sample) -> ImageFacts | None:
    try:
        image = sample.open()
    except UserError:
        return None
    return ImageFacts(image.size, pixels_key(image), thumbnail(image))


def _image_problems(sample: Sample, image: ImageFacts | None) -> Iterator[str]:
    if image is None:
        yield "its image is absent or can't be decoded"
    elif image.size != sample.size:
        yield "its image has another size than it says"

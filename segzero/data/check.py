"""A folder of Samples looked over without a model: what is in it, and which samples can't be right.

>>> report = check("data/scenes")                           # doctest: +SKIP
>>> print(report)                                           # doctest: +SKIP
27 samples of 27 images (224x224): 18 train, 9 val
3 with nothing there, the others with up to 2 objects
seg_zero         the truth earns the most in 21 of 21; 6 are not for it, or have no points
seg_zero_strict  the truth earns the most in 21 of 21; 6 are not for it, or have no points
vision_reasoner  the truth earns the most in 24 of 24; 3 are not for it, or have no points
soft             the truth earns the most in 27 of 27
mask             the truth earns the most in 27 of 27
nothing is wrong
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rewards import PRESETS, read_case
from rewards.case import SQUARE
from segzero.answer import MAX_OBJECTS, POINTS, Answer, Instance, render_answer
from segzero.data.sample import Object, Sample, from_parquet
from segzero.errors import UserError
from segzero.frames import Frame, Size
from segzero.masks import Mask, box_iou, box_of, decode
from segzero.prompts import normalise

SHOWN = 5  # ids in the table; `Report.wrong` has them all
ONE_OBJECT = ("seg_zero", "seg_zero_strict")  # presets that can score nothing else
SOME_OBJECT = ("vision_reasoner",)  # as published, nothing is worth anything where nothing is there
LOOSE = 0.5  # a box whose IoU with its mask's own box is lower is another's


@dataclass
class Report:
    """What a folder holds; `wrong` maps what is wrong to the ids of the samples."""

    samples: int = 0
    images: int = 0
    nothing_there: int = 0
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
        for preset in PRESETS:
            left = self.samples - self.scored[preset]
            other = f"; {left} are not for it, or have no points" if left else ""
            lines.append(
                f"{preset:16} the truth earns the most in {self.highest[preset]} of {self.scored[preset]}{other}"
            )
        for what, ids in sorted(self.wrong.items()):
            more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
            lines.append(f"WRONG: {what}: {', '.join(ids[:SHOWN])}{more}")
        return "\n".join(lines if self.wrong else [*lines, "nothing is wrong"])


def check(folder: str | Path) -> Report:
    """Look at every Sample of a folder's .parquet files, or of one such file."""
    report = Report()
    seen: set[str] = set()
    images: dict[bytes, tuple[Size, bytes] | None] = {}  # path or content -> size and what the pixels are
    places: dict[bytes, dict[str, str]] = defaultdict(dict)  # pixels -> split -> the first sample's id
    for split, sample in _samples(Path(folder)):
        report.samples += 1
        report.splits[split] += 1
        report.nothing_there += sample.empty
        report.objects[len(sample.objects)] += 1
        if sample.id in seen:
            report.add("its id is another's too", sample.id)
        seen.add(sample.id)
        key = _key(sample)
        if key not in images:
            images[key] = _look(sample)
        for what in [*_image_problems(sample, images[key]), *_problems(sample)]:
            report.add(what, sample.id)
        if (found := images[key]) is not None:
            places[found[1]].setdefault(split, sample.id)
        _score(sample, report)
    if not report.samples:
        raise UserError(f"{folder} holds no samples; see docs/data.md")
    for ids in places.values():
        if len(ids) > 1:
            report.add(f"its image is in {' and '.join(sorted(map(repr, ids)))}", *ids.values())
    known = sorted({found[0] for found in images.values() if found}, key=math.prod)
    report.sizes = [known[0], known[-1]] if known else []
    report.images = len(places) + sum(found is None for found in images.values())
    return report


def true_answer(sample: Sample, frame: Frame, format: str) -> str:
    """The truth as the policy would write it; an object with one point says it twice where two belong."""
    return render_answer(Answer("The truth.", _true_instances(sample, frame, format)), format)


def _true_instances(sample: Sample, frame: Frame, format: str) -> tuple[Instance, ...]:
    found = []
    for true in sample.objects:
        x0, y0, x1, y1 = frame.to_frame(true.box, sample.size)
        points = [frame.to_frame(point, sample.size) for point in (*true.points, *true.points[-1:])]
        found.append(Instance((x0, y0, x1, y1), tuple((x, y) for x, y in points[: POINTS[format]])))
    return tuple(found)


def _samples(folder: Path) -> Iterator[tuple[str, Sample]]:
    """Each sample with its split: of several files they are what the files are called, as in train-0-of-2.parquet."""
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else [folder]
    if not files:
        raise UserError(f"no .parquet file in {folder}; check the path")
    names = {file.stem.split("-")[0] for file in files}
    for file in files:
        for sample in from_parquet(file):
            yield file.stem.split("-")[0] if len(names) > 1 else sample.split, sample


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


def _problems(sample: Sample) -> list[str]:
    """What is wrong with a sample, its image aside; each thing once."""
    found = {what for true in sample.objects for what in _object_problems(true, sample.size)}
    try:
        normalise(sample.question)
    except UserError:
        found.add("its question is empty or can't be asked")
    if sample.ignore is not None and _decoded(sample.ignore, sample.size) is None:
        found.add("its ignored pixels are malformed or of another size")
    return sorted(found)


def _object_problems(true: Object, size: Size) -> Iterator[str]:
    numbers = np.array([*true.box, *(v for point in true.points for v in point)])
    if not np.isfinite(numbers).all():
        yield "a coordinate is not finite"
        return
    x0, y0, x1, y1 = true.box
    if not (x0 < x1 and y0 < y1):
        yield "a box has no area"
    if min(x0, y0) < 0 or x1 > size[0] or y1 > size[1]:
        yield "a box leaves its image"
    if not all(x0 <= x <= x1 and y0 <= y <= y1 for x, y in true.points):
        yield "a point lies outside its box"
    if true.rle is None:
        return
    mask = _decoded(true.rle, size)
    if mask is None:
        yield "a mask is malformed or of another size"
        return
    tight = box_of(mask)
    if tight is None:
        yield "a mask has no pixels"
    elif float(box_iou(true.box, tight)) < LOOSE:
        yield "a box is not its mask's"
    if tight is not None and not all(_inside(mask, point) for point in true.points):
        yield "a point lies outside its mask"


def _decoded(rle: object, size: Size) -> Mask | None:
    try:
        mask = decode(rle)  # type: ignore[arg-type]
    except UserError:
        return None
    return mask if mask.shape == size[::-1] else None


def _inside(mask: Mask, point: tuple[float, float]) -> bool:
    x, y = math.floor(point[0]), math.floor(point[1])
    return 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and bool(mask[y, x])


def _score(sample: Sample, report: Report) -> None:
    """Score the truth, in whole numbers of the 840 frame, against itself: less than the most means a bad sample."""
    if not all(np.isfinite([*true.box, *np.ravel(true.points)]).all() for true in sample.objects):
        return
    for preset, rubric in PRESETS.items():
        if not _applies(preset, sample):
            continue
        format = "seg_zero" if preset in ONE_OBJECT else "multi"
        instances = _true_instances(sample, SQUARE, format)
        names = ("points_1", "points_2") if preset in ONE_OBJECT else ("point_2d",)
        box = "bbox" if preset in ONE_OBJECT else "bbox_2d"
        truth = [{box: i.box} | dict(zip(names, i.points, strict=False)) for i in instances]
        report.scored[preset] += 1
        reward = rubric.score(read_case(true_answer(sample, SQUARE, format), truth, format=format))
        if reward.total >= rubric.highest - 1e-6:
            report.highest[preset] += 1
        else:
            lost = ", ".join(term.name for term in rubric.terms if reward.terms[term.name] < term.high - 1e-6)
            report.add(f"the truth loses points under {preset}: {lost}", sample.id)


def _applies(preset: str, sample: Sample) -> bool:
    count = len(sample.objects)
    fits = count == 1 if preset in ONE_OBJECT else count > 0 or preset not in SOME_OBJECT
    return fits and count <= MAX_OBJECTS and all(true.points for true in sample.objects)

"""Selection of training samples by a policy's own answers: what it can learn from, and a little of the rest.

>>> classify([0.9, 0.9, 0.2, 0.9])
'sometimes right'
>>> classify([0.95, 0.7]), classify([0.95, 0.9]), classify([0.0, 0.05]), classify([0.3, 0.5])
('rough', 'mastered', 'hopeless', 'other')

Thresholds are SWiM's, which trains its second stage on such a selection. Samples are compared by the IoU of the masks
that the segmenter draws for each of several sampled answers; an answer that can't be read has 0.
"""

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from segzero.data.parquet import from_parquet, to_parquet
from segzero.dialogue.prompting import sample_prompt
from segzero.errors import UserError
from segzero.evaluation.predictions import predicted_objects
from segzero.evaluation.provenance import comparable, settings_of
from segzero.evaluation.scoring import SCORES, read_rows, score_sample
from segzero.io import write_atomically
from segzero.pipeline import Query, SegZeroPipeline
from segzero.sample import Sample
from segzero.several_answers import TEMPERATURE, sample_outputs

SOMETIMES, ROUGH, MASTERED, HOPELESS, OTHER = "sometimes right", "rough", "mastered", "hopeless", "other"
CLASSES = (SOMETIMES, ROUGH, MASTERED, HOPELESS, OTHER)
FAILED = "failed"  # of a sample that could not be asked
IOUS = "ious.jsonl"  # a run's file of its answers' IoUs, in rollouts/
AT_ONCE = 16  # images in memory


@dataclass(frozen=True)
class FrontierSettings:
    """Thresholds of the classes, and how much is kept of those that are not the frontier."""

    right: float = 0.6  # least IoU of a right answer
    fine: float = 0.8  # IoU below which a right answer is rough
    hopeless: float = 0.1  # IoU that no answer to a hopeless sample reaches
    spread: float = 0.1  # least difference of the best and the worst answer where some are right
    keep_hopeless: float = 0.1  # share of the frontier's number
    keep_mastered: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.hopeless <= self.right <= self.fine <= 1 or not 0 <= self.spread <= 1:
            raise UserError(
                f"thresholds must rise from 0 to 1: hopeless {self.hopeless}, right {self.right}, fine {self.fine}"
            )
        if min(self.keep_hopeless, self.keep_mastered) < 0:
            raise UserError("the shares of hopeless and mastered samples to keep must be 0 or more")


@dataclass(frozen=True)
class SelectionReport:
    """Numbers of samples by class, read and kept, and the mean IoU of their answers."""

    read: Mapping[str, int]
    kept: Mapping[str, int]
    mean: Mapping[str, float]


def classify(ious: Sequence[float], settings: FrontierSettings = FrontierSettings()) -> str:
    """Name the class of a sample by the IoUs of the answers to it."""
    best, worst = max(ious), min(ious)
    right = sum(iou > settings.right for iou in ious)
    if 0 < right < len(ious) and best - worst > settings.spread:
        return SOMETIMES
    if worst > settings.fine:
        return MASTERED
    if right == len(ious):
        return ROUGH
    return HOPELESS if best < settings.hopeless else OTHER


def ask_samples(
    pipeline: SegZeroPipeline,
    samples: Iterable[Sample],
    answers: int,
    file: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Ask every sample `answers` times, and append a line for each to the file; those that have one are passed over.

    {"settings": {...}}, the first line: who answered, and how
    {"sample": "tiny-1", "ious": [0.93, 0.0], "answers": ["<think>...", "..."]}, or a "problem" in place of the answers
    """
    settings = comparable(settings_of(pipeline)) | {"answers": answers, "temperature": TEMPERATURE}
    done = set(read_records(file)) if _resumes(file, settings) else set()
    todo = (sample for sample in samples if sample.id not in done)
    number = len(done)
    progress(number)
    with file.open("ab") as out:
        while some := list(islice(todo, AT_ONCE)):
            for record in _ask(pipeline, some, answers):
                out.write(json.dumps(record).encode() + b"\n")
            out.flush()
            number += len(some)
            progress(number)


def _resumes(file: Path, settings: Mapping[str, Any]) -> bool:
    """True if the file has answers with these settings; an absent one is begun, and a torn last line is dropped."""
    header = json.dumps({"settings": settings}, sort_keys=True).encode() + b"\n"
    if not file.exists():
        write_atomically(file, header)
        return False
    content = file.read_bytes()
    if not content.startswith(header):
        raise UserError(f"{file} holds answers of another policy, or sampled otherwise; choose another --out")
    if not content.endswith(b"\n"):
        write_atomically(file, content[: content.rindex(b"\n") + 1])
    return True


def _ask(pipeline: SegZeroPipeline, samples: Sequence[Sample], answers: int) -> Iterator[dict[str, Any]]:
    """The records of some samples; one that can't be asked is a record of its problem."""
    queries: dict[str, Query] = {}
    for sample in samples:
        if sample.mask() is None:
            yield {"sample": sample.id, "problem": "its truth has no masks to compare with"}
            continue
        try:
            image = sample.open()
            pipeline.fits(image)
            if image.size != sample.size:
                raise UserError(f"its image is {image.width}x{image.height}, not {sample.width}x{sample.height}")
            queries[sample.id] = sample_prompt(sample, pipeline.frame).query(image)
        except UserError as error:
            yield {"sample": sample.id, "problem": str(error)}
    by_id = {sample.id: sample for sample in samples}
    groups = sample_outputs(pipeline, list(queries.values()), answers, TEMPERATURE)
    for id, outputs in zip(queries, groups, strict=True):
        scores = [
            score_sample(by_id[id], predicted_objects(result), result.error).score for result in pipeline.draw(outputs)
        ]
        ious = [round(score.iou, 4) for score in scores if score is not None]
        yield {"sample": id, "ious": ious, "answers": [output.text for output in outputs]}


def read_answers(sources: Iterable[Path]) -> dict[str, list[float]]:
    """Read the IoUs of the answers to each sample from several sources, each of which adds its own.

    A source is the file of an earlier selection, a training run's folder or its rollouts/ious.jsonl, or the folder of
    an evaluation, which has one answer to each sample.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for source in sources:
        one = _scored(source) if (source / SCORES).is_file() else read_records(source)
        for id, ious in one.items():
            found[id] += ious
    return dict(found)


def _scored(folder: Path) -> dict[str, list[float]]:
    return {row.id: [] if row.score is None or row.lost else [row.score.iou] for row in read_rows(folder)}


def read_records(file: Path) -> dict[str, list[float]]:
    """Read the IoUs of the answers to each sample, of a later line in place of an earlier; none for one that failed.

    `file` is that of an earlier selection, or a training run's folder or its rollouts/ious.jsonl.
    """
    for place in (file / "rollouts" / IOUS, file / IOUS):
        file = place if place.is_file() else file
    try:
        content = file.read_bytes()
    except OSError as error:
        hint = f"; a run writes rollouts/{IOUS} if its reward draws masks" if file.is_dir() else ""
        raise UserError(f"cannot read {file}: {error.strerror or error}{hint}") from error
    found: dict[str, list[float]] = {}
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):  # torn by a kill
            break
        try:
            row = json.loads(line)
            if "settings" in row:
                continue
            ious = [float(iou) for iou in row.get("ious", [])]
            if not isinstance(row["sample"], str) or not all(0 <= iou <= 1 for iou in ious):
                raise ValueError("no IoUs")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{file}, line {number}: it holds no sample with IoUs between 0 and 1") from error
        found[row["sample"]] = ious
    return found


def select(
    data: Path, ious: Mapping[str, Sequence[float]], out: Path, settings: FrontierSettings = FrontierSettings()
) -> SelectionReport:
    """Write the selected samples to `out`, and the class of every sample beside it, in NAME.classes.jsonl.

    All samples at the frontier are kept, in the data's order, and a random part of the hopeless and the mastered ones.
    """
    classes: dict[str, str] = {}
    unanswered = 0
    for sample in from_parquet(data):
        if sample.id in ious:
            answers = ious[sample.id]
            classes[sample.id] = classify(answers, settings) if answers else FAILED
        else:
            unanswered += 1
    kept = _choose(classes, settings)
    if not kept:
        raise UserError(f"none of the {len(classes)} samples with answers is worth keeping; look at other thresholds")
    to_parquet(
        (
            replace(sample, meta=sample.meta | {"frontier": classes[sample.id]})
            for sample in from_parquet(data)
            if sample.id in kept
        ),
        out,
    )
    rows = ({"sample": id, "class": name, "ious": list(ious[id]), "kept": id in kept} for id, name in classes.items())
    write_atomically(out.with_suffix(".classes.jsonl"), b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    read = Counter(classes.values()) + Counter({"without answers": unanswered})
    values: dict[str, list[float]] = defaultdict(list)
    for id, name in classes.items():
        values[name] += ious[id]
    mean = {name: math.fsum(each) / len(each) for name, each in values.items() if each}
    return SelectionReport(read, Counter(classes[id] for id in kept), mean)


def _choose(classes: Mapping[str, str], settings: FrontierSettings) -> set[str]:
    """The ids to keep: the frontier, and a few of the hopeless and mastered samples."""
    ids = {name: [id for id, own in classes.items() if own == name] for name in CLASSES}
    frontier = ids[SOMETIMES] + ids[ROUGH]
    chance = random.Random(settings.seed)
    kept = set(frontier)
    for name, share in ((HOPELESS, settings.keep_hopeless), (MASTERED, settings.keep_mastered)):
        kept.update(chance.sample(ids[name], min(len(ids[name]), round(share * len(frontier)))))
    return kept

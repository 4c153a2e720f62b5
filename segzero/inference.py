"""Many images, one question or a file of them: run the pipeline, save what it found, count what failed."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from segzero.errors import UserError, unknown_name
from segzero.files import write_atomically
from segzero.images import find_images, load_image
from segzero.pipeline import SegZeroPipeline
from segzero.prompts import normalise
from segzero.result import FORMATS, Segmentation, coco_dataset


@dataclass(frozen=True)
class Job:
    """One image and one question; `name` is what its files are called."""

    image: Path
    question: str
    name: str


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a result, or the one line that says why there is none."""

    job: Job
    result: Segmentation | None
    problem: str | None = None


def jobs_for(images: str, question: str) -> list[Job]:
    """The same question for an image, a folder or a glob of them."""
    normalise(question)
    return _named([(path, question) for path in find_images(images)])


def jobs_from(file: Path) -> list[Job]:
    """Jobs from a JSON-lines file of {"image": path, "question": text}; paths are relative to the file.

    A line may also say "prompt" for "question", as ConverSeg's files do.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read questions from {file}: {error}") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            question = row["question"] if "question" in row else row["prompt"]
            pairs.append((file.parent / row["image"], question))
            normalise(question)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = str(error) if isinstance(error, UserError) else 'expected {"image": path, "question": text}'
            raise UserError(f"{file}, line {number}: {reason}") from error
    if not pairs:
        raise UserError(f"{file} holds no questions; write one JSON object a line")
    return _named(pairs)


def run(pipeline: SegZeroPipeline, jobs: Iterable[Job], max_pixels: int) -> Iterator[Outcome]:
    """An outcome for every job, in order. An image that can't be read is one too: nothing is dropped."""
    todo = iter(jobs)
    while chunk := list(islice(todo, pipeline.batch)):
        images, problems = {}, {}
        for job in chunk:
            try:
                images[job] = load_image(job.image, max_pixels=max_pixels)
                pipeline.policy.frame.model_size(images[job].size)  # refuses shapes the policy can't see
            except UserError as error:
                images.pop(job, None)
                problems[job] = str(error)
        results = iter(pipeline(list(images.values()), [job.question for job in images]))
        for job in chunk:
            yield Outcome(job, None, problems[job]) if job in problems else Outcome(job, next(results))


def save(outcomes: Iterable[Outcome], folder: Path, formats: tuple[str, ...]) -> Iterator[Outcome]:
    """Write each outcome's files as it comes; `coco` is one file for the whole run, written at the end."""
    check_formats(formats)
    each = tuple(name for name in formats if name != "coco")
    done: list[tuple[str, Segmentation]] = []
    for outcome in outcomes:
        if outcome.result is not None:
            outcome.result.save(folder, outcome.job.name, each)
            if "coco" in formats:
                done.append((str(outcome.job.image), outcome.result))
        yield outcome
    if "coco" in formats:
        write_atomically(folder / "coco.json", json.dumps(coco_dataset(done)).encode())


def check_formats(formats: tuple[str, ...]) -> None:
    """Refuse a format that nothing writes."""
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("format", name, list(FORMATS))


def _named(pairs: list[tuple[Path, str]]) -> list[Job]:
    """File names that say which image it was, and stay apart when an image is asked about twice."""
    taken: dict[str, int] = {}
    jobs = []
    for path, question in pairs:
        count = taken[path.stem] = taken.get(path.stem, 0) + 1
        name = path.stem if count == 1 else f"{path.stem}_{count}"
        jobs.append(Job(path, question, name))
    return jobs

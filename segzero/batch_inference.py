"""Inference over many images: run the pipeline, save the results, count the failures."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from unicodedata import normalize

from segzero.errors import UserError, unknown_name
from segzero.images import find_images, load_image
from segzero.io import write_atomically
from segzero.pipeline import Pipeline, Query
from segzero.prompts import normalise
from segzero.result import FORMATS, Segmentation, coco_dataset

RESERVED = "coco"  # the file of the whole run
STEM = 200  # bytes of a name taken from the image's name, so that numbers and endings fit into the usual 255


@dataclass(frozen=True)
class Job:
    """One image and one question; `name` is what its files are called."""

    image: Path
    question: str
    name: str


@dataclass(frozen=True)
class Outcome:
    """The result of a job, or the one line that says why there is none."""

    job: Job
    result: Segmentation | None
    problem: str | None = None


def jobs_for(images: str, question: str) -> list[Job]:
    """Jobs of one question for an image, a folder or a glob of images."""
    normalise(question)
    return named_jobs([(path, question) for path in find_images(images)])


def jobs_for_all(images: str) -> list[Job]:
    """Jobs without a question for an image, a folder or a glob of images."""
    return named_jobs([(path, "") for path in find_images(images)])


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
    return named_jobs(pairs)


def run(pipeline: Pipeline, jobs: Iterable[Job], max_pixels: int) -> Iterator[Outcome]:
    """Yield an outcome for every job, in order; an image that can't be read is one too, so nothing is dropped."""
    todo = iter(jobs)
    while chunk := list(islice(todo, pipeline.batch)):
        queries, problems = [], {}
        for job in chunk:
            try:
                image = load_image(job.image, max_pixels=max_pixels)
                pipeline.fits(image)
                queries.append(Query(image, job.question))
            except UserError as error:
                problems[job] = str(error)
        results = iter(pipeline.run(queries) if queries else ())
        for job in chunk:
            yield Outcome(job, None, problems[job]) if job in problems else Outcome(job, next(results))


def save(outcomes: Iterable[Outcome], folder: Path, formats: tuple[str, ...]) -> Iterator[Outcome]:
    """Write the files of each outcome as it comes; `coco` is one file for the whole run, written at the end.

    A folder that can't be made ends the run before it has begun; a result that can't be written is a problem.
    """
    check_formats(formats)
    each = tuple(name for name in formats if name != RESERVED)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from error
    done: list[tuple[str, Segmentation]] = []
    for outcome in outcomes:
        if outcome.result is not None:
            try:
                outcome.result.save(folder, outcome.job.name, each)
            except UserError as error:
                yield Outcome(outcome.job, None, str(error))
                continue
            if RESERVED in formats:
                done.append((str(outcome.job.image), outcome.result))
        yield outcome
    if RESERVED in formats:
        write_atomically(folder / f"{RESERVED}.json", json.dumps(coco_dataset(done)).encode())


def check_formats(formats: tuple[str, ...]) -> None:
    """Refuse a format that nothing writes."""
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("format", name, list(FORMATS))


def named_jobs(pairs: list[tuple[Path, str]]) -> list[Job]:
    """Jobs with file names that tell the image, and differ on every file system.

    >>> names = ("a.jpg", "A.png", "a_2.jpg", "coco.jpg")
    >>> [job.name for job in named_jobs([(Path(name), "the cat") for name in names])]
    ['a', 'A_2', 'a_2_2', 'coco_2']
    """
    taken = {RESERVED}
    numbers: Counter[str] = Counter()  # the highest that was given to a stem
    jobs = []
    for path, question in pairs:
        stem = path.stem.encode("utf-8", "replace")[:STEM].decode("utf-8", "ignore")
        name, key = stem, _folded(stem)
        while _folded(name) in taken:
            numbers[key] = max(numbers[key], 1) + 1
            name = f"{stem}_{numbers[key]}"
        taken.add(_folded(name))
        jobs.append(Job(path, question, name))
    return jobs


def _folded(name: str) -> str:
    """A name as macOS and Windows compare it, where "Straße", "STRASSE" and accents in two pieces are the same."""
    return normalize("NFC", normalize("NFC", name).casefold())

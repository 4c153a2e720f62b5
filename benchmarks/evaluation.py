"""Speed of scoring stored answers, against the published method: nested lists of booleans, in one process.

The samples are synthetic photos of 640x480 with one to three blobs each, and the answers are slightly wrong. Times are
CPU time.

    rate      samples scored per second: ours from predictions.jsonl and .parquet, theirs from lists of booleans
    disk      bytes of a stored mask
    memory    peak resident memory of a process that scores 2,000 samples, and of one that scores ten times as many

    OMP_NUM_THREADS=1 python -m benchmarks.evaluation [--samples 2000] [--published 60]
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from segzero.data.parquet import to_parquet
from segzero.evaluation.benchmarks import Task, get_benchmark
from segzero.evaluation.figures import summarise
from segzero.evaluation.predictions import PREDICTIONS, Prediction, Predictions
from segzero.evaluation.scoring import PredictedObject
from segzero.masks import Mask, box_of, decode, encode, union
from segzero.sample import Object, Sample

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT = 640, 480
DISTINCT = 200  # distinct images; further samples repeat them under other ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--published", type=int, default=60, help="samples scored by the published method")
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)  # the process whose memory is measured
    args = parser.parse_args()
    if args.score:
        summarise(islice(rows_of(args.score), args.samples))
        # Not getrusage, which also counts the process that started this one.
        print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), args.samples, args.published)


def compare(folder: Path, samples: int, published: int) -> None:
    pairs = [make_pair(np.random.default_rng(number), number) for number in range(min(samples, DISTINCT))]
    write_ours(folder / "ours", pairs, samples)
    write_ours(folder / "ten", pairs, 10 * samples)
    write_nested(folder / "nested", pairs[:published])

    ours, rows = timed(lambda: score(folder / "ours"))
    assert rows == samples
    with_figures, _ = timed(lambda: summarise(rows_of(folder / "ours")))
    lists, theirs = timed(lambda: score_nested(folder / "nested"))
    hub, theirs_too = timed(lambda: score_hub(folder / "nested", pairs[:published]))
    check_agreement(folder / "ours", theirs, theirs_too)

    print(f"{samples} samples of {WIDTH}x{HEIGHT}; {published} by the published method")
    print(f"rate    ours {samples / ours:.0f}/s, with all figures and their intervals {samples / with_figures:.0f}/s")
    for name, seconds in (("JSON lists, truth and answer", lists), ("the hub's column, answer in memory", hub)):
        rate = published / seconds
        ratio, whole = samples / ours / rate, samples / with_figures / rate
        print(f"        published, {name}: {rate:.1f}/s; ours is {ratio:.0f}x, with all figures {whole:.0f}x")

    masks = [pair[0].objects[at].rle for pair in pairs for at in range(len(pair[0].objects))][:published]
    stored = np.mean([len(json.dumps(rle)) for rle in masks])
    nested = np.mean([len(json.dumps(decode(rle).tolist())) for rle in masks])
    column = (folder / "nested" / "test.parquet").stat().st_size / published
    print(f"disk    RLE {stored:.0f} B; nested booleans as JSON {nested:.0f} B, {nested / stored:.0f}x; ", end="")
    print(f"as the hub's parquet {column:.0f} B, {column / stored:.0f}x")

    base = peak_megabytes(folder / "ours", 1)
    few, many = peak_megabytes(folder / "ours", samples), peak_megabytes(folder / "ten", 10 * samples)
    print(f"memory  {few} MB for {samples} samples, {many} MB for {10 * samples}: {many / few:.2f}x; {base} MB for one")


def make_pair(random: np.random.Generator, number: int) -> tuple[Sample, Prediction]:
    """Make a sample and its answer: the same blobs, moved a little."""
    objects, predicted = [], []
    for _ in range(int(random.integers(1, 4))):
        center, radius = random.uniform((80, 80), (WIDTH - 80, HEIGHT - 80)), random.uniform(20, 70, size=2)
        wobble, at = random.uniform(0, 0.25, size=4), random.uniform(0, 2 * np.pi, size=4)
        true = blob(center, radius, wobble, at)
        drawn = blob(center + random.normal(0, 4, size=2), radius * random.uniform(0.9, 1.1), wobble, at)
        objects.append(Object(box_of(true), rle=encode(true)))
        predicted.append(PredictedObject(box_of(drawn), encode(drawn), ((float(center[0]), float(center[1])),), 0.9))
    sample = Sample(str(number), "photo.jpg", f"question {number}", WIDTH, HEIGHT, tuple(objects))
    think = "There are several things on the table. The one that holds the tea stands on the left of the lamp."
    answer = Prediction(sample.id, sample.question, f"<think>{think}</think>", think, objects=tuple(predicted))
    prediction, _ = answer.scored(sample)
    return sample, prediction


def blob(center: np.ndarray, radius: np.ndarray, wobble: np.ndarray, at: np.ndarray) -> Mask:
    """Draw an ellipse with an uneven outline."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    dx, dy = (x - center[0]) / radius[0], (y - center[1]) / radius[1]
    angle = np.arctan2(dy, dx)
    edge = 1 + sum(w * np.sin((n + 2) * angle + a) / 2 for n, (w, a) in enumerate(zip(wobble, at, strict=True)))
    return np.hypot(dx, dy) < edge


def write_ours(folder: Path, pairs: list[tuple[Sample, Prediction]], count: int) -> None:
    def numbered(which: int) -> Iterator:
        for number in range(count):
            one = pairs[number % len(pairs)][which]
            yield replace(one, id=str(number))

    to_parquet(numbered(0), folder / "data" / "test.parquet")
    with Predictions.open(folder / PREDICTIONS) as predictions:
        predictions.append(numbered(1))


def write_nested(folder: Path, pairs: list[tuple[Sample, Prediction]]) -> None:
    """Write the true masks as a hub column, as published, and the true and predicted masks as lists in JSON."""
    from datasets import Dataset, Features, List, Value

    folder.mkdir()
    truths = [whole([o.rle for o in sample.objects]) for sample, _ in pairs]
    answers = [whole([o.mask for o in prediction.objects]) for _, prediction in pairs]
    with (folder / "masks.jsonl").open("w") as file:
        for true, drawn in zip(truths, answers, strict=True):
            file.write(json.dumps({"mask": true.tolist(), "pred": drawn.tolist()}) + "\n")
    features = Features({"mask": List(List(Value("bool")))})
    Dataset.from_list([{"mask": true.tolist()} for true in truths], features=features).to_parquet(
        str(folder / "test.parquet")
    )


def rows_of(folder: Path) -> Iterator:
    task = Task(get_benchmark("own"), str(folder / "data"))
    with Predictions.open(folder / PREDICTIONS, write=False) as predictions:
        yield from predictions.rows(task.read())


def score(folder: Path) -> int:
    """Score every sample; returns their number."""
    return sum(1 for _ in rows_of(folder))


def score_nested(folder: Path) -> list[tuple[int, int]]:
    """Score by the published method: convert lists to arrays and count pixels."""
    with (folder / "masks.jsonl").open() as file:
        return [counted(np.array(row["mask"]), np.array(row["pred"])) for row in map(json.loads, file)]


def score_hub(folder: Path, pairs: list[tuple[Sample, Prediction]]) -> list[tuple[int, int]]:
    """Score with the truth from the hub's column and the answer's mask in memory."""
    from datasets import Dataset

    dataset = Dataset.from_parquet(str(folder / "test.parquet"), cache_dir=str(folder / "cache"))
    answers = (whole([o.mask for o in prediction.objects]) for _, prediction in pairs)
    return [counted(np.array(item["mask"]), drawn) for item, drawn in zip(dataset, answers, strict=True)]


def counted(true: Mask, drawn: Mask) -> tuple[int, int]:
    return int(np.logical_and(true, drawn).sum()), int(np.logical_or(true, drawn).sum())


def check_agreement(folder: Path, *others: list[tuple[int, int]]) -> None:
    """Check that all methods count the same pixels."""
    scores = [row.score for row in rows_of(folder)]
    for other in others:
        assert [(s.intersection, s.union) for s in scores[: len(other)]] == other


def whole(rles: list) -> Mask:
    return decode(union(rles, (WIDTH, HEIGHT)))


def timed(work: Callable) -> tuple[float, object]:
    """Call twice; returns the CPU seconds and the result of the second call."""
    work()
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def peak_megabytes(folder: Path, samples: int) -> int:
    """Peak memory of a process that computes all figures of the first samples."""
    command = [sys.executable, "-m", "benchmarks.evaluation", "--score", str(folder), "--samples", str(samples)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)


if __name__ == "__main__":
    main()

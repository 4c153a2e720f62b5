"""Kills of `segzero data prepare`: finished shards stay as they are, and a second call makes the same files."""

import json
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.kills.killing import Kill, again, bytes_of, contents, differences, hold, kill, run, segzero, start
from segzero.data.exports import export
from segzero.data.parquet import to_parquet
from segzero.data.prepare import NOTES
from segzero.tiny.questions import make_training_samples

SAMPLES = 120
SHARD = 5  # samples per shard


def kill_prepare(folder: Path, chance: random.Random, count: int) -> Iterator[Kill]:
    """Kill calls that begin from nothing; every third has two workers."""
    folder.mkdir(parents=True, exist_ok=True)
    to_parquet(make_training_samples(SAMPLES, 5), folder / "made" / "train.parquet")
    export(folder / "made", "coco", folder / "coco")
    whole, log = folder / "whole", folder / "log"
    shards = SAMPLES // SHARD
    lengths = run(_command(folder, whole), log, partial(_written, whole), shards - 1)
    wanted = contents(whole)
    killed = 0
    for number in range(2 * count):
        out = folder / f"out{number}"
        more = ("--workers", "2") if number % 3 == 2 else ()
        process, begin = start(_command(folder, out, *more), log), time.monotonic()
        writing, moment = lengths.draw(chance, number, partial(_written, out), shards)
        moment(process)
        hold(process)
        finished = _notes(out)
        lived, took = kill(process), time.monotonic() - begin
        wrong = [f"the note {name} of a finished shard is lost" for name in finished if name not in _notes(out)]
        wrong += _half_written(out, wanted)
        times = {file: (out / file).stat().st_mtime_ns for file in _shards(out, finished)}
        wrong += again(_command(folder, out, *more), log)
        wrong += [f"{file} was made again" for file, at in times.items() if _changed(out / file, at)]
        wrong += differences(out, wanted)
        yield Kill("prepare", writing, took, f"{len(finished)} of {shards} shards finished", tuple(wrong), lived)
        killed += lived
        if killed == count:
            return


def _command(folder: Path, out: Path, *more: str) -> list[str]:
    read = ["--format", "coco", "--option", f"images={folder / 'coco' / 'images'}", "--no-target", "0.3"]
    return segzero(
        "data", "prepare", folder / "coco" / "instances.json", *read, "--shard-size", SHARD, "--out", out, *more
    )


def _written(out: Path) -> int:
    return len(_notes(out))


def _notes(out: Path) -> list[str]:
    return sorted(note.name for note in (out / NOTES).glob("*-*.json"))


def _shards(out: Path, notes: list[str]) -> list[str]:
    shards = [json.loads((out / NOTES / name).read_text()) for name in notes if (out / NOTES / name).is_file()]
    return [each["file"] for each in shards if each["samples"]]


def _half_written(out: Path, wanted: dict[str, bytes]) -> list[str]:
    """Problems of the files that have their final name: each must be whole."""
    named = [path for path in (*out.glob("*.parquet"), out / "card.json") if path.is_file()]
    return [f"{path.name} is half-written" for path in named if bytes_of(path) != wanted.get(path.name)]


def _changed(file: Path, before: int) -> bool:
    return not file.is_file() or file.stat().st_mtime_ns != before

"""Kills of `segzero eval`: written lines stay, and a second call ends with the same figures."""

import json
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.kills.killing import Kill, again, bytes_of, hold, kill, run, segzero, start
from segzero.data.parquet import to_parquet
from segzero.evaluation.predictions import PREDICTIONS
from segzero.tiny.questions import HELD_OUT_SEED, make_samples

SAMPLES = 36
SAME = (
    "scores.jsonl",
    "metrics.json",
)  # equal to the byte; the predictions are not, as they hold times


def kill_evaluation(folder: Path, chance: random.Random, count: int) -> Iterator[Kill]:
    """Kill evaluations that begin from nothing, without cached answers."""
    to_parquet(make_samples(SAMPLES, HELD_OUT_SEED + 5), folder / "data" / "test.parquet")
    whole, log = folder / "whole", folder / "log"
    lengths = run(_command(folder, whole), log, partial(_written, whole), SAMPLES - 1)
    wanted = _answers(_lines(whole))
    killed = 0
    for number in range(2 * count):
        out = folder / f"out{number}"
        process, begin = start(_command(folder, out), log), time.monotonic()
        writing, moment = lengths.draw(chance, number, partial(_written, out), SAMPLES)
        moment(process)
        hold(process)
        before = _lines(out)
        lived, took = kill(process), time.monotonic() - begin
        kept = _lines(out)
        wrong = [] if kept[: len(before)] == before else [f"of {len(before)} lines {len(kept)} are left, or others"]
        wrong += again(_command(folder, out), log)
        done = _lines(out)
        if done[: len(kept)] != kept:
            wrong.append("lines that were there before were written anew")
        if _answers(done) != wanted:
            wrong.append("the answers are not those of an undisturbed run")
        for name in SAME:
            if bytes_of(out / "own" / name) != bytes_of(whole / "own" / name):
                wrong.append(f"{name} is not that of an undisturbed run")
        if not bytes_of(out / "own" / "report.html").rstrip().endswith(b"</html>"):
            wrong.append("report.html is cut off")
        yield Kill("evaluation", writing, took, f"{len(before)} of {SAMPLES} lines written", tuple(wrong), lived)
        killed += lived
        if killed == count:
            return


def _command(folder: Path, out: Path) -> list[str]:
    options = ["--policy-backend", "transformers", "--batch", 1, "--cache", out / "cache"]
    return segzero("eval", "--benchmark", "own", "--data", folder / "data", *options, "--out", out)


def _written(out: Path) -> int:
    return len(_lines(out))


def _lines(out: Path) -> list[bytes]:
    """Whole lines of the predictions."""
    return [line for line in bytes_of(out / "own" / PREDICTIONS).splitlines(keepends=True) if line.endswith(b"\n")]


def _answers(lines: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) | {"seconds": None} for line in lines]

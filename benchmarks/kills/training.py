"""Kills of `segzero train`: sealed checkpoints stay whole and are resumed from, half-written ones are not."""

import json
import random
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.kills.killing import LONGEST, LOOK, Kill, after, hold, kill, segzero, start
from segzero.data.parquet import to_parquet
from segzero.tiny.questions import HELD_OUT_SEED, make_samples
from segzero.training import checkpoints

KEPT = 3  # checkpoints
SAVES = 3  # saves of one call at most, before it is killed
ENDLESS = 1000  # steps, more than any call reaches


def kill_training(folder: Path, chance: random.Random, count: int) -> Iterator[Kill]:
    """Kill and resume one run that saves each step, again and again, and let it end at last."""
    to_parquet(make_samples(36, 11), folder / "train.parquet")
    to_parquet(make_samples(9, HELD_OUT_SEED + 11), folder / "val.parquet")
    run, log = folder / "run", folder / "log"
    saves = Saves(run)
    length = 0.0  # seconds from the start of a call to its last save, at most so far
    for number in range(count):
        newest, _ = checkpoints.latest_whole(run)
        size = log.stat().st_size if log.exists() else 0
        process, begin = start(_command(folder, run, ENDLESS), log), time.monotonic()
        writing = not length or number % 2 == 0
        if writing:
            saves.wait(process, chance.randint(1 if length else 2, SAVES))
            after(chance.uniform(0, saves.last))(process)
            hold(process)
            length = max(length, time.monotonic() - begin)
        else:
            after(chance.uniform(0, length))(process)
            hold(process)
        sealed, rows = checkpoints.steps(run), rows_of(run)
        lived, took = kill(process), time.monotonic() - begin
        unfinished = [path.name for path in run.glob(".*.unfinished")]
        output = log.read_text()[size:]
        wrong = [] if lived else [f"it ended by itself: {output[-500:]}"]
        wrong += [*_not_resumed(output, newest), *damage(run, sealed), *lost_rows(run, rows)]
        found = f"steps {sealed} sealed, {unfinished[0] if unfinished else 'nothing'} unfinished"
        yield Kill("training", writing, took, found, tuple(wrong), lived)
    if count:
        yield _finish(folder, run, log)


class Saves:
    """Watcher of a run's saves."""

    def __init__(self, run: Path) -> None:
        self.run, self.last = run, 0.0  # seconds that the last save took

    def wait(self, process: subprocess.Popen, number: int) -> None:
        """Wait until so many checkpoints are begun from now on; those that a kill left do not count."""
        seen: dict[Path, float] = dict.fromkeys(self.run.glob(".*.unfinished"), 0.0)
        begun, until = 0, time.monotonic() + LONGEST
        while process.poll() is None and time.monotonic() < until:
            now, there = time.monotonic(), set(self.run.glob(".*.unfinished"))
            for gone in seen.keys() - there:
                since = seen.pop(gone)
                self.last = now - since if since else self.last
            for new in there - seen.keys():
                seen[new], begun = now, begun + 1
            if begun == number:
                return
            time.sleep(LOOK)


def _finish(folder: Path, run: Path, log: Path) -> Kill:
    """Let a last call continue for two steps."""
    newest, _ = checkpoints.latest_whole(run)
    goal = max(checkpoints.steps(run), default=0) + 2
    begin, size = time.monotonic(), log.stat().st_size
    process = start(_command(folder, run, goal), log)
    try:
        code = process.wait(LONGEST)
    finally:
        kill(process)
    output = log.read_text()[size:]
    wrong = [] if code == 0 else [f"the last call ended with exit code {code}: {output[-500:]}"]
    if newest is not None and "resuming from" not in output:
        wrong.append(f"the last call did not resume from {newest}")
    wrong += [*_not_resumed(output, newest), *damage(run, [goal])]
    wrong += [f"{path.name} was left behind" for path in run.glob(".*.unfinished")]
    found = f"resumed from {newest.name if newest else 'nothing'}, went on to step {goal}"
    return Kill("training, ended", False, time.monotonic() - begin, found, tuple(wrong), False)


def _command(folder: Path, run: Path, steps: int) -> list[str]:
    return segzero(
        "train",
        f"data.train_files={folder / 'train.parquet'}",
        f"data.val_files={folder / 'val.parquet'}",
        f"trainer.default_local_dir={run}",
        "data.train_batch_size=4",
        "actor_rollout_ref.rollout.n=4",
        "reward=mask",
        "trainer.save_freq=1",
        f"segzero.keep_last={KEPT}",
        "trainer.test_freq=-1",
        "trainer.val_before_train=false",
        f"trainer.total_training_steps={steps}",
    )


def _not_resumed(output: str, newest: Path | None) -> list[str]:
    """Problem of a call that resumed from another checkpoint than the newest whole one."""
    found = re.findall(r"resuming from (\S+)", output)
    return [f"resumed from {found[0]}, not from {newest}"] if found and found != [str(newest)] else []


def damage(run: Path, sealed: list[int]) -> list[str]:
    """List the problems of checkpoints that have their final name; those about to be removed may be incomplete."""
    newest, _ = checkpoints.latest_whole(run)
    if sealed and (newest is None or int(newest.name.removeprefix(checkpoints.PREFIX)) < sealed[-1]):
        return [f"step {sealed[-1]} was sealed, but {newest} is the newest whole one"]
    damaged = ((step, checkpoints.damage(checkpoints.folder(run, step))) for step in checkpoints.steps(run)[-KEPT:])
    return [f"step {step} has its name and is not whole: {problem}" for step, problem in damaged if problem]


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Read the rows of metrics.jsonl, without a line that a kill cut off."""
    rows, file = [], run / "metrics.jsonl"
    for line in file.read_text().splitlines() if file.is_file() else []:
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def lost_rows(run: Path, before: list[dict[str, Any]]) -> list[str]:
    """Problem of a log that lacks rows that were there before a kill."""
    return [] if rows_of(run)[: len(before)] == before else ["rows of metrics.jsonl are lost"]

"""Kills of `segzero merge`: the folder exists whole or not at all, and a second call makes it."""

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.kills.killing import Kill, again, contents, differences, hold, kill, run, segzero, start

RANKS = 3


def kill_merge(folder: Path, chance: random.Random, count: int) -> Iterator[Kill]:
    """Kill merges into new folders."""
    make_checkpoint(folder / "run")
    whole, log = folder / "whole", folder / "log"
    lengths = run(_command(folder, whole), log, lambda: 2 if whole.exists() else _written(whole) > 0)
    wanted = contents(whole)
    lengths = replace(lengths, one=lengths.one / len(wanted))
    killed = 0
    for number in range(2 * count):
        out = folder / f"out{number}"
        process, begin = start(_command(folder, out), log), time.monotonic()
        writing, moment = lengths.draw(chance, number, partial(_written, out), len(wanted))
        moment(process)
        hold(process)
        lived, took = kill(process), time.monotonic() - begin
        there, unfinished = out.exists(), _unfinished(out).exists()
        wrong: list[str] = []
        if there:
            wrong += [f"taken for whole: {line}" for line in differences(out, wanted)]
        else:
            wrong += again(_command(folder, out), log)
            wrong += differences(out, wanted)
        wrong += ["an unfinished folder was left behind"] if _unfinished(out).exists() and not there else []
        found = "merged already" if there else "half merged, under another name" if unfinished else "nothing yet"
        yield Kill("merge", writing, took, found, tuple(wrong), lived)
        killed += lived
        if killed == count:
            return


def make_checkpoint(run: Path) -> None:
    """Save the shipped policy in shards, as training does."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from segzero import shipped
    from tests.helpers.shards import save_shards

    model = AutoModelForImageTextToText.from_pretrained(
        shipped.policy_path(), dtype=torch.float32, trust_remote_code=False
    )
    save_shards(
        model,
        AutoProcessor.from_pretrained(shipped.policy_path(), trust_remote_code=False),
        run / "global_step_1",
        RANKS,
    )


def _command(folder: Path, out: Path) -> list[str]:
    return segzero("merge", folder / "run" / "global_step_1", "--out", out)


def _written(out: Path) -> int:
    """Number of files that were begun; a larger number once the folder has its name."""
    with suppress(FileNotFoundError):
        return len(list(_unfinished(out).iterdir()))
    return 1000 if out.exists() else 0


def _unfinished(out: Path) -> Path:
    return out.with_name(f".{out.name}.unfinished")

"""Kills of a program at a random moment, drawn from its whole length or from the time in which it writes.

>>> after(2.0)(process)                                                                      # doctest: +SKIP
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.soak.server import environment

LONGEST = 900  # seconds that any of the programs may take
LOOK = 0.001  # seconds between two checks whether it writes

_COMMIT = re.compile(rb"commit\W{1,4}[0-9a-f]{12,40}(-dirty)?")
Moment = Callable[[subprocess.Popen], None]  # waits for the moment, or until the process has ended


@dataclass(frozen=True)
class Kill:
    """Record of one kill."""

    what: str  # subject
    writing: bool  # the moment was drawn from the time in which it writes
    after: float  # seconds from the start
    found: str  # state of the files at the kill
    wrong: tuple[str, ...] = ()  # problems that were found afterwards
    lived: bool = True  # the process had not ended by itself


@dataclass(frozen=True)
class Lengths:
    """Times of an undisturbed run in seconds."""

    end: float = 0.0  # from its start to its end
    one: float = 3.0  # for one of the things it writes

    def draw(
        self, chance: random.Random, number: int, written: Callable[[], int], most: int = 1, often: int = 1
    ) -> tuple[bool, Moment]:
        """Draw the moment of a kill; returns it after True if the program writes at that moment.

        After `often` moments of writing comes one from the whole length. At a moment of writing, a random number of
        the `most` things are written already.
        """
        if number % (often + 1) == often and self.end:
            return False, after(chance.uniform(0, self.end))
        wanted = chance.randint(1, most)
        return True, after(chance.uniform(0, self.one), once=lambda: written() >= wanted)


def segzero(*arguments: object) -> list[str]:
    """Build a command line of segzero."""
    return [sys.executable, "-m", "segzero", *map(str, arguments)]


def start(command: Sequence[str], log: Path) -> subprocess.Popen:
    """Start a command in a process group of its own, with its output in a log."""
    with log.open("ab") as file:
        output: Any = {"stdout": file, "stderr": file, "stdin": subprocess.DEVNULL}
        return subprocess.Popen(command, env=environment(), start_new_session=True, **output)


def after(seconds: float, once: Callable[[], bool] = lambda: True) -> Moment:
    """Make the moment so many seconds after `once` has become true."""

    def wait(process: subprocess.Popen) -> None:
        until = time.monotonic() + LONGEST
        while process.poll() is None and time.monotonic() < until and not once():
            time.sleep(LOOK)
        until = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < until:
            time.sleep(min(LOOK, max(0.0, until - time.monotonic())))

    return wait


def hold(process: subprocess.Popen) -> None:
    """Stop the whole group where it is, so that one can look at what it has done before it is killed."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGSTOP)


def kill(process: subprocess.Popen) -> bool:
    """Send SIGKILL to the whole group; returns False if the process had ended by itself."""
    lived = process.poll() is None
    below: list[psutil.Process] = []
    with suppress(psutil.Error):
        below = psutil.Process(process.pid).children(recursive=True) if lived else []
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for child in below:  # those with a group of their own
        with suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(below, timeout=10)
    return lived


def run(command: Sequence[str], log: Path, written: Callable[[], int], most: int = 1) -> Lengths:
    """Run a command undisturbed and time it; it writes `most` things after the first. A failure ends the program."""
    process = start(command, log)
    begin = time.monotonic()
    after(0, once=lambda: written() > 0)(process)
    first = time.monotonic()
    after(0, once=lambda: written() > most)(process)
    last = time.monotonic()
    if code := process.wait(LONGEST):
        raise SystemExit(f"{' '.join(command)} ended with exit code {code}:\n{log.read_text()[-2000:]}")
    return Lengths(time.monotonic() - begin, (last - first) / most)


def again(command: Sequence[str], log: Path) -> tuple[str, ...]:
    """Call the same command again after a kill; returns what went wrong."""
    code = start(command, log).wait(LONGEST)
    return (f"called again, it ended with exit code {code}: {log.read_text()[-300:]}",) if code else ()


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder except locks, by name."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): bytes_of(path) for path in files}


def bytes_of(file: Path) -> bytes:
    """Read a file without the commit of the clone, which may change meanwhile; empty if there is no file."""
    return _COMMIT.sub(b"commit", file.read_bytes()) if file.is_file() else b""


def differences(folder: Path, wanted: dict[str, bytes]) -> tuple[str, ...]:
    """List the differences between a folder's files and those of an undisturbed run."""
    found = contents(folder)
    lines = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    lines += [f"{name} was left behind" for name in sorted(found.keys() - wanted.keys())]
    both = sorted(wanted.keys() & found.keys())
    lines += [f"{name} is not what it should be" for name in both if wanted[name] != found[name]]
    return tuple(lines)

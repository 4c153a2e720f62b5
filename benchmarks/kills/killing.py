"""Killing a program at a random moment: drawn over its whole length, or from when it writes.

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
LOOK = 0.001  # seconds between two looks whether it writes

_COMMIT = re.compile(rb"commit\W{1,4}[0-9a-f]{12,40}(-dirty)?")
Moment = Callable[[subprocess.Popen], None]  # returns when it has come, or the process has ended


@dataclass(frozen=True)
class Kill:
    """One kill: of what, when, what was there, and what was wrong afterwards."""

    what: str
    writing: bool  # drawn from when it writes
    after: float  # seconds from the start
    found: str
    wrong: tuple[str, ...] = ()
    lived: bool = True  # it had not ended by itself


@dataclass(frozen=True)
class Lengths:
    """Of an undisturbed run, in seconds: from its start to its end, and what it takes to write one thing."""

    end: float = 0.0
    one: float = 3.0

    def draw(
        self, chance: random.Random, number: int, written: Callable[[], int], most: int = 1, often: int = 1
    ) -> tuple[bool, Moment]:
        """The moment of a kill, and whether it is one from when the program writes.

        After `often` of those comes one that may be any moment of the whole length. When it writes, a random number
        of its `most` things is written already, and the next is about to be.
        """
        if number % (often + 1) == often and self.end:
            return False, after(chance.uniform(0, self.end))
        wanted = chance.randint(1, most)
        return True, after(chance.uniform(0, self.one), once=lambda: written() >= wanted)


def segzero(*arguments: object) -> list[str]:
    """The command."""
    return [sys.executable, "-m", "segzero", *map(str, arguments)]


def start(command: Sequence[str], log: Path) -> subprocess.Popen:
    """Begin a command in a process group of its own."""
    with log.open("ab") as file:
        said: Any = {"stdout": file, "stderr": file, "stdin": subprocess.DEVNULL}
        return subprocess.Popen(command, env=environment(), start_new_session=True, **said)


def after(seconds: float, once: Callable[[], bool] = lambda: True) -> Moment:
    """So many seconds after something has come to be, looked for often."""

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
    """SIGKILL to the whole group; False: it had ended by itself."""
    lived = process.poll() is None
    below: list[psutil.Process] = []
    with suppress(psutil.Error):
        below = psutil.Process(process.pid).children(recursive=True) if lived else []
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for child in below:  # those that have made a group of their own
        with suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(below, timeout=10)
    return lived


def run(command: Sequence[str], log: Path, written: Callable[[], int], most: int = 1) -> Lengths:
    """Undisturbed, to its end; a command that fails ends the program. `most` things are written, after the first."""
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
    """The same command after a kill; what was wrong with it."""
    code = start(command, log).wait(LONGEST)
    return (f"called again, it ended with exit code {code}: {log.read_text()[-300:]}",) if code else ()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the locks, by its name."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): bytes_of(path) for path in files}


def bytes_of(file: Path) -> bytes:
    """What is in a file, without the commit of the clone, which may move on meanwhile; nothing if there is none."""
    return _COMMIT.sub(b"commit", file.read_bytes()) if file.is_file() else b""


def differences(folder: Path, wanted: dict[str, bytes]) -> tuple[str, ...]:
    """How a folder's files are not those that an undisturbed run made."""
    found = contents(folder)
    lines = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    lines += [f"{name} was left behind" for name in sorted(found.keys() - wanted.keys())]
    both = sorted(wanted.keys() & found.keys())
    lines += [f"{name} is not what it should be" for name in both if wanted[name] != found[name]]
    return tuple(lines)

"""A limit for runs that stand still: they end, and say where each of their processes stood.

A deadlock or a server that never answers kills nobody, so the watchdog can't see it, and the wait for it has no end.
`StallLimit` ends a run in which nothing has moved for so many minutes. What moves is noted by `progress`: parts of the
start, groups of answers, steps, validations.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from segzero.io import write_atomically
from segzero.training import progress

STACKS = "stalled.txt"  # in the run's folder
_NAME = "segzero-stacks-{}"  # with the process id, as a forked process has its parent's file too
_DUMP = getattr(signal, "SIGUSR2", None)
_DUMP_SECONDS = 2.0  # to wait for the stacks of one process
_file: IO[str] | None = None  # faulthandler keeps only its descriptor


def offer_stacks() -> None:
    """Let SIGUSR2 write this process's Python stacks into a file in memory, where `read_stacks` finds them.

    Linux only. A process without such a file is never sent the signal, which would end it.
    """
    global _file
    if sys.platform == "linux" and _DUMP is not None:
        _file = os.fdopen(os.memfd_create(_NAME.format(os.getpid())), "w")
        faulthandler.register(_DUMP, file=_file, all_threads=True)


def read_stacks(pid: int) -> str:
    """Python stacks of all threads of a process; a remark where it has none or does not answer."""
    try:
        name = f"/memfd:{_NAME.format(pid)}"
        found = [link for link in Path(f"/proc/{pid}/fd").iterdir() if _target(link).startswith(name)]
    except OSError:
        return "(gone, or not readable)\n"
    if not found or _DUMP is None:
        return "(no Python stacks)\n"
    stacks, before = found[-1], found[-1].read_text()
    os.kill(pid, _DUMP)
    until = time.monotonic() + _DUMP_SECONDS
    while time.monotonic() < until:
        time.sleep(0.1)
        written = stacks.read_text()
        if len(written) > len(before) and written == stacks.read_text():
            return written[len(before) :]
    return f"(no answer; its state is {_state(pid)})\n"


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # closed meanwhile
        return ""


def _state(pid: int) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("State:"):
            return line.removeprefix("State:").strip()
    return "unknown"


class StallLimit:
    """Ends this process and all that it started when nothing has moved for `minutes`; 0: never."""

    def __init__(self, run: Path, minutes: float, seconds_still: Callable[[], float] = progress.seconds_still) -> None:
        self.run, self.minutes, self.seconds_still = run, minutes, seconds_still
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall limit", daemon=True)

    def __enter__(self) -> "StallLimit":
        if self.minutes > 0:
            offer_stacks()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()  # it must not set the timer again
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._stopped.wait(min(5.0, self.minutes * 10)):
            # For a deadlock that holds Python's global lock, in which this thread can't run: that timer needs no lock.
            faulthandler.dump_traceback_later(self.minutes * 60 + 120, exit=True)
            if self.seconds_still() > self.minutes * 60:
                self._end()

    def _end(self) -> None:
        """End without any cleaning up: whatever would be waited for may be what hangs."""
        import psutil

        children = psutil.Process().children(recursive=True)
        report = []
        for process in [psutil.Process(), *children]:
            try:
                title = " ".join(process.cmdline())[:200]
                report.append(f"== {process.pid} {title}\n{read_stacks(process.pid)}")
            except (psutil.Error, OSError):  # it ended meanwhile
                continue
        path = write_atomically(self.run / STACKS, "\n".join(report).encode())
        print(
            f"segzero: nothing has moved for {self.minutes:g} minutes (segzero.stall_minutes), so the run ends; its "
            f"checkpoints are whole, and {path} says where its processes stood",
            file=sys.stderr,
            flush=True,
        )
        for process in children:
            try:
                process.kill()
            except psutil.Error:
                continue
        os._exit(2)

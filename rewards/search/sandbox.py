'''A sandbox for one candidate: another process, confined by itself, that scores cases one by one.

>>> from rewards.case import Case
>>> from rewards.search.candidate import parse_candidate
>>> candidate = parse_candidate("""
... def reward(answer, truth):
...     return {"count": ratio(len(answer.instances), len(truth))}
... """)
>>> with Sandbox(candidate) as sandbox:
...     sandbox.score([Case.of_objects("<think></think><answer>[]</answer>", [])])
[{'count': 1.0}]

The worker (`worker.py`) has no packages, environment, files or network, and bounded memory and time
(`confinement.py`). A worker that takes too long or dies is replaced: its case is a `CandidateFailure`, never a 0.
'''

import json
import logging
import math
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rewards.case import Case
from rewards.search import language
from rewards.search.candidate import Candidate, printable
from rewards.search.payload import payload_of
from segzero.errors import UserError, one_line

log = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
# Python's own modules and those of this folder; the packages around it would import numpy.
_START = """
import runpy, sys, types
folder = sys.argv.pop(1)
for name, path in (("rewards", []), ("rewards.search", [folder])):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = path
runpy.run_module("rewards.search.worker", run_name="__main__")
"""
_LONGEST_REPLY = 1 << 16  # bytes
_START_SECONDS = 60.0
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")


@dataclass(frozen=True)
class SandboxLimits:
    """Bounds of time and memory for a candidate's worker."""

    seconds: float = 5.0  # for one case, by the clock
    memory: int = 256 << 20  # bytes of address space
    life: float = 60.0  # seconds of work after which a worker is replaced; it may use little more processor
    deaths: int = 3  # workers that may be lost over one call of `score`; then the remaining cases fail untried


@dataclass(frozen=True)
class CandidateFailure:
    """A case that a candidate gave no terms for."""

    kind: str  # raised, returned, memory, slow, died, forbidden, reply or untried
    line: int | None  # of the candidate's source, where that is known
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message


class Sandbox:
    """Scores cases with one candidate in a process of its own."""

    def __init__(self, candidate: Candidate, limits: SandboxLimits | None = None) -> None:
        self.candidate, self.limits = candidate, limits or SandboxLimits()
        self.deaths = 0  # workers that were lost, or killed because of time
        self.missing: list[str] = []  # what this machine cannot take from the worker
        self._worker: _Worker | None = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End the worker."""
        worker, self._worker = getattr(self, "_worker", None), None
        if worker:
            worker.kill()

    def score(self, cases: Sequence[Case]) -> list[dict[str, float] | CandidateFailure]:
        """Score cases: named terms each, or what went wrong."""
        results: list[dict[str, float] | CandidateFailure] = []
        allowed = self.deaths + self.limits.deaths
        for case in cases:
            if self.deaths >= allowed:
                results.append(
                    CandidateFailure("untried", None, f"not tried, as {self.limits.deaths} workers were lost before")
                )
            else:
                results.append(self._score(case))
        return results

    def _score(self, case: Case) -> dict[str, float] | CandidateFailure:
        line = json.dumps(payload_of(case, self.candidate.needs_masks)).encode() + b"\n"
        worker = self._ready()
        try:
            return _read_reply(worker.ask(line, self.limits.seconds))
        except _Lost as lost:
            self.deaths += 1
            self.close()
            return CandidateFailure(lost.kind, None, lost.problem)

    def _ready(self) -> "_Worker":
        """The worker that takes the next case: the last one, or a new one."""
        worker = self._worker
        if worker and (worker.busy > self.limits.life or worker.process.poll() is not None):
            self.close()
        if self._worker is None:
            known = self.missing
            self._worker, self.missing = _Worker.start(self.candidate, self.limits)
            if self.missing != known:
                log.warning("candidates run with less protection on this machine: %s", "; ".join(self.missing))
        return self._worker


class _Lost(Exception):
    """A worker that died or cannot be listened to any longer."""

    def __init__(self, kind: str, problem: str) -> None:
        super().__init__(problem)
        self.kind, self.problem = kind, problem


class _Worker:
    """A process and its two pipes."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin and process.stdout
        self.process, self.input, self.output = process, process.stdin.fileno(), process.stdout.fileno()
        self.busy = 0.0  # seconds
        os.set_blocking(self.input, False)
        os.set_blocking(self.output, False)

    @classmethod
    def start(cls, candidate: Candidate, limits: SandboxLimits) -> "tuple[_Worker, list[str]]":
        """Start a worker with its candidate; returns it, and what it could not be deprived of."""
        most = math.ceil(limits.life + limits.seconds) + 5
        # Hashes are fixed, so that sets have the same order in every worker.
        process = subprocess.Popen(
            [sys.executable, "-s", "-S", "-P", "-B", "-c", _START, str(_FOLDER), str(limits.memory), str(most)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONHASHSEED": "0"},
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )
        worker = cls(process)
        try:
            ready = json.loads(worker.ask(b"", _START_SECONDS))
            missing = [str(line) for line in ready["missing"]]
            worker._write(json.dumps(candidate.source).encode() + b"\n", time.monotonic() + limits.seconds)
        except (_Lost, ValueError, KeyError, TypeError) as error:
            worker.kill()
            raise UserError(f"the sandbox for rewards did not start: {one_line(error)}") from error
        worker.busy = 0.0
        return worker, missing

    def ask(self, line: bytes, seconds: float) -> bytes:
        """Send a line and wait for the answer's."""
        began = time.monotonic()
        try:
            self._write(line, began + seconds)
            return self._read(began + seconds)
        except TimeoutError:
            raise _Lost("slow", f"it took more than {seconds:g} s") from None
        finally:
            self.busy += time.monotonic() - began

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()

    def _write(self, data: bytes, deadline: float) -> None:
        while data:
            _wait(self.input, select.POLLOUT, deadline)
            try:
                data = data[os.write(self.input, data) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._death() from None

    def _read(self, deadline: float) -> bytes:
        """Read one line, and refuse anything behind it."""
        data = b""
        while b"\n" not in data:
            _wait(self.output, select.POLLIN, deadline)
            piece = os.read(self.output, _LONGEST_REPLY)
            if not piece:
                raise self._death()
            data += piece
            if len(data) > _LONGEST_REPLY:
                raise _Lost("reply", "the worker's reply is too long")
        line, _, rest = data.partition(b"\n")
        if rest:
            raise _Lost("reply", "the worker replied more than once")
        return line

    def _death(self) -> _Lost:
        try:
            code = self.process.wait(1)
        except subprocess.TimeoutExpired:
            return _Lost("reply", "the worker closed its pipes")
        if code == -signal.SIGSYS:
            return _Lost("forbidden", "it tried what a reward may not do; the kernel ended it")
        name = signal.Signals(-code).name if code < 0 else f"code {code}"
        return _Lost("died", f"the worker ended ({name}); memory or recursion may have been too much")


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    remaining = deadline - time.monotonic()
    if remaining <= 0 or not poll.poll(remaining * 1000):
        raise TimeoutError


def _read_reply(line: bytes) -> dict[str, float] | CandidateFailure:
    """Read the worker's reply. It is not trusted: code that broke out of the language could have written it."""
    try:
        reply: Any = json.loads(line)
        if "terms" in reply:
            return _checked_terms(reply["terms"])
        place = reply["line"]
        kind = reply["kind"] if reply["kind"] in ("raised", "returned", "memory") else "reply"
        return CandidateFailure(kind, place if type(place) is int else None, printable(one_line(reply["message"])))
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return CandidateFailure("reply", None, "the worker's reply could not be read")


def _checked_terms(terms: Any) -> dict[str, float] | CandidateFailure:
    if not isinstance(terms, dict) or not 1 <= len(terms) <= language.MAX_TERMS:
        return CandidateFailure("reply", None, "the worker gave no terms")
    for name, value in terms.items():
        if not _NAME.fullmatch(name):
            return CandidateFailure(
                "returned", None, f"a term called {name[:40]!r}; use letters, digits and underscores"
            )
        if type(value) is not float or not abs(value) <= language.MAX_VALUE:
            return CandidateFailure("reply", None, f"the worker gave no number for {name[:40]!r}")
    return terms

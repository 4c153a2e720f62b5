"""Calls that were paid for: a file with a line per answer, so that nothing is asked twice.

calls.jsonl   {"key", "stage", "model", "text", "finish", "input_tokens", "output_tokens", "usd", "seconds"} per line

The key is a hash of the request: pictures, words, model and sampling. A malformed answer was paid for, too.
"""

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from segzero.data.engine.records import read_record, to_json
from segzero.errors import UserError
from segzero.io import append_line

CALLS = "calls.jsonl"


class Unrecorded(UserError):
    """An answer could not be kept: a run must end, as it would pay for all others twice."""


@dataclass(frozen=True)
class Call:
    """An answer and what it cost."""

    key: str
    stage: str
    model: str
    text: str
    finish: str  # "stop", "length" (cut off), "content_filter", ...
    input_tokens: int
    output_tokens: int
    usd: float | None  # None: the price is not known
    seconds: float


@dataclass(frozen=True)
class Usage:
    """Sums over calls."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = 0.0  # None: of some call the price is not known
    seconds: float = 0.0

    @staticmethod
    def of(calls: "Iterable[Call]") -> "Usage":
        """Add calls up."""
        every = list(calls)
        prices = [call.usd for call in every]
        return Usage(
            len(every),
            sum(call.input_tokens for call in every),
            sum(call.output_tokens for call in every),
            None if None in prices else round(sum(price for price in prices if price is not None), 6),
            round(sum(call.seconds for call in every), 3),
        )

    def __str__(self) -> str:
        price = "price not known" if self.usd is None else f"${self.usd:.4f}"
        return f"{self.calls} calls, {self.input_tokens:,} tokens in, {self.output_tokens:,} out, {price}"


class CallFile:
    """The calls of a folder, in memory and on the disk; several threads may use it at once."""

    def __init__(self, folder: Path) -> None:
        """Read the calls there are. Nothing is written before `begin`: a run that can't begin leaves no folder."""
        self.file = folder / CALLS
        self._waiting: list[Call] | None = []  # calls before `begin`
        self.calls: dict[str, Call] = {}
        self.new = 0  # calls that were added since
        self.spent = 0.0  # dollars, as far as prices are known
        self._lock = threading.Lock()
        self._read()

    def add(self, call: Call) -> None:
        """Keep a call; after `begin` it is on the disk when this returns."""
        with self._lock:
            if self._waiting is None:
                self._write(call)
            else:
                self._waiting.append(call)
            self.calls[call.key] = call
            self.new += 1
            self.spent += call.usd or 0.0

    def _read(self) -> None:
        for line in self.file.read_bytes().splitlines() if self.file.is_file() else ():
            try:
                call = read_record(Call, json.loads(line))
            except (ValueError, RecursionError):  # a line that was cut off when the machine stopped
                continue
            self.calls[call.key] = call
        self.spent = sum(call.usd or 0.0 for call in self.calls.values())

    def begin(self) -> None:
        """Write calls from now on, and those that wait; the folder must be there, and locked."""
        with self._lock:
            self._read()  # another run may have ended in between
            for call in self._waiting or ():
                self._write(call)
            self._waiting = None

    def _write(self, call: Call) -> None:
        try:
            append_line(self.file, json.dumps(to_json(call)).encode() + b"\n")
        except OSError as error:
            raise Unrecorded(f"cannot write {self.file}: {error.strerror or error}; nothing more is asked") from error

    def usage(self, keys: Iterable[str] | None = None) -> Usage:
        """Sum of all calls, or of those with these keys."""
        with self._lock:
            chosen = list(self.calls.values()) if keys is None else [self.calls[k] for k in keys if k in self.calls]
        return Usage.of(chosen)

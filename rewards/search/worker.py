"""The worker of a sandbox: confines itself, reads a candidate, then scores one case a line.

Started by `sandbox.py` in a Python without packages, environment or open files; lines of JSON come through 0 and go
through 1. Only modules of the standard library, and of this folder, are imported: numpy would be half of what could go
wrong.
"""

import ast
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from rewards.search import guards, helpers, language
from rewards.search.confinement import confine
from rewards.search.views import views_of

FILE = "<candidate>"
LONGEST = 4 << 20  # characters of a line that comes in
_LONGEST_MESSAGE = 300  # characters of an error


def main() -> None:
    """Serve until the input ends. Arguments: bytes of memory, seconds of processor."""
    memory, seconds = int(sys.argv[1]), int(sys.argv[2])
    warnings.filterwarnings("ignore")  # to show one, a file would be opened
    sys.stdout = sys.stderr = None
    _reply({"missing": confine(memory, seconds)})
    lines = _lines()
    reward = _load(next(lines, ""))
    for line in lines:
        _reply(_score(reward, line))


def _load(source: str) -> Callable[..., Any] | dict[str, Any]:
    """Run the module and take its `reward`; returns what went wrong if it has none."""
    try:
        module = guards.guarded(ast.parse(json.loads(source)))
        # Values that a candidate cannot name, as they begin with an underscore.
        names = helpers.names() | guards.FUNCTIONS
        exec(compile(module, FILE, "exec"), names)  # this process has nothing that it could harm
        reward = names["reward"]
        return reward if callable(reward) else {"kind": "raised", "line": None, "message": "reward is no function"}
    except BaseException as error:
        return _failure(error)


def _score(reward: Callable[..., Any] | dict[str, Any], line: str) -> dict[str, Any]:
    if isinstance(reward, dict):
        return reward
    try:
        terms = reward(*views_of(json.loads(line)))
    except BaseException as error:
        return _failure(error)
    return _checked(terms)


def _checked(terms: Any) -> dict[str, Any]:
    """Terms as plain numbers; the parent checks them again, as code in here could reply what it likes."""
    if type(terms) is not dict or not 1 <= len(terms) <= language.MAX_TERMS:
        return _returned(f"{_kind(terms)} instead of 1 to {language.MAX_TERMS} named terms")
    for name, value in terms.items():
        if type(name) is not str or type(value) not in (int, float, bool):
            return _returned(f"{str(name)[:40]!r}: {_kind(value)} instead of a number")
        if not abs(value) <= language.MAX_VALUE:
            return _returned(f"{value:.6g} for {name[:40]!r}; each is at most {language.MAX_VALUE:g}, either way")
    return {"terms": {name: float(value) for name, value in terms.items()}}


def _kind(value: Any) -> str:
    return f"a dict of {len(value)}" if type(value) is dict else f"a {type(value).__name__}"


def _returned(message: str) -> dict[str, Any]:
    return {"kind": "returned", "line": None, "message": f"it returned {message}"}


def _failure(error: BaseException) -> dict[str, Any]:
    """Describe an error, with the candidate's line. No traceback is formatted: that would open files."""
    line, place = None, error.__traceback__
    while place is not None:
        if place.tb_frame.f_code.co_filename == FILE:
            line = place.tb_lineno
        place = place.tb_next
    try:
        message = f"{type(error).__name__}: {error}"[:_LONGEST_MESSAGE]
    except BaseException:
        message = "an error without words"
    kind = "memory" if isinstance(error, MemoryError) else "raised"
    return {"kind": kind, "line": line, "message": message}


def _lines() -> Iterator[str]:
    """Lines that come in, bounded."""
    waiting = b""
    while piece := os.read(0, 1 << 16):
        waiting += piece
        while (end := waiting.find(b"\n")) >= 0:
            line, waiting = waiting[:end], waiting[end + 1 :]
            yield line.decode()
        if len(waiting) > LONGEST:
            return


def _reply(reply: dict[str, Any]) -> None:
    data = json.dumps(reply).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    try:
        main()
    finally:
        os._exit(0)  # the interpreter's own ending would make system calls that the filter ends it for

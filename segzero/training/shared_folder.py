"""Check at the start of a run that all its trainers see the same folder.

Each trainer saves its own shard into the run's folder. On nodes that do not share it the shards would be scattered,
and no checkpoint would be whole.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as run:
...     check_shared(Path(run), lambda file, token: [("node-1", has_content(Path(file), token)), ("node-1", True)])
"""

import secrets
import time
from collections.abc import Callable
from pathlib import Path

from segzero.errors import UserError
from segzero.io import write_atomically

PATIENCE = 5.0  # seconds that a network disk may take to show a new file

# Calls `has_content` on all trainers; returns the host name and the result of each.
OnTrainers = Callable[[str, str], list[tuple[str, bool]]]


def check_shared(run: Path, on_trainers: OnTrainers) -> None:
    """Write a file into the run's folder, and refuse the run if any trainer does not see it."""
    token = secrets.token_hex(16)
    file = run / f".seen-by-all-{token[:8]}"  # a new name each time, so that no node has cached that it is missing
    write_atomically(file, token.encode())
    try:
        replies = on_trainers(str(file), token)
    finally:
        file.unlink(missing_ok=True)
    blind = sorted({host for host, seen in replies if not seen})
    if blind:
        trainers = sum(not seen for _, seen in replies)
        raise UserError(
            f"{trainers} of {len(replies)} trainers, on {', '.join(blind)}, do not see the run's folder {run}; "
            f"set trainer.default_local_dir to a folder that all nodes share, under the same path"
        )


def has_content(file: Path, token: str, patience: float = PATIENCE) -> bool:
    """Whether the file has that content, now or within `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            if file.read_text() == token:
                return True
        except (OSError, ValueError):
            pass
        if time.monotonic() >= end:
            return False
        time.sleep(0.2)

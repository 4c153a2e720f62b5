"""A look, before a run spends any time, whether all its trainers see one and the same folder.

Each trainer saves its own shard into the run's folder. On nodes that do not share it, the shards would lie scattered,
and no checkpoint would be whole.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as run:
...     check_shared(Path(run), lambda file, token: [("node-1", holds(Path(file), token)), ("node-1", True)])
"""

import secrets
import time
from collections.abc import Callable
from pathlib import Path

from segzero.errors import UserError
from segzero.io import write_atomically

PATIENCE = 5.0  # seconds that a network disk may take to show a new file

# Asks all trainers whether a file holds a text: the host name of each, and its answer.
Ask = Callable[[str, str], list[tuple[str, bool]]]


def check_shared(run: Path, ask: Ask) -> None:
    """Refuse a run some of whose trainers do not see the file that is put into its folder here."""
    token = secrets.token_hex(16)
    file = run / f".seen-by-all-{token[:8]}"  # a new name each time, so that no node remembers it as missing
    write_atomically(file, token.encode())
    try:
        answers = ask(str(file), token)
    finally:
        file.unlink(missing_ok=True)
    blind = sorted({host for host, seen in answers if not seen})
    if blind:
        trainers = sum(not seen for _, seen in answers)
        raise UserError(
            f"{trainers} of {len(answers)} trainers, on {', '.join(blind)}, do not see the run's folder {run}; "
            f"set trainer.default_local_dir to a folder that all nodes share, under the same path"
        )


def holds(file: Path, token: str, patience: float = PATIENCE) -> bool:
    """Whether the file is there with that content, now or soon."""
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

"""Checkpoints that are whole or not there: a temporary name, a manifest of checksums, a rename.

A folder `global_step_N` under the run's folder holds what verl saves (`actor/`, `data.pt`) and `state.json`, our
own state. `manifest.json` names every file with its size and SHA-256; it is written last, then comes the name.
A kill at any moment leaves the earlier checkpoints as they were, and at most a `.unfinished` folder beside them.

>>> steps("no such folder")
[]
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from segzero.errors import UserError
from segzero.files import write_atomically

PREFIX = "global_step_"  # verl's name for the folder
MANIFEST = "manifest.json"
TRACKER = "latest_checkpointed_iteration.txt"  # what verl's own tools read
BEST = "best.json"  # {"step": 200, "by": "val/giou", "metrics": {...}}
_CHUNK = 1 << 22
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What torch and safetensors say instead of the system's own words.
_NO_ROOM_TEXT = re.compile(r"No space left|Disk quota|File too large|inline_container|PytorchStreamWriter")


def folder(run: str | Path, step: int) -> Path:
    """Where the checkpoint of a step is, or will be."""
    return Path(run) / f"{PREFIX}{step}"


def unfinished(run: str | Path, step: int) -> Path:
    """An empty folder to save a step into, before `finish`."""
    place = Path(run) / f".{PREFIX}{step}.unfinished"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def finish(run: str | Path, step: int, state: dict[str, Any]) -> Path:
    """Seal what was saved into `unfinished(run, step)` and give it its name."""
    place, target = Path(run) / f".{PREFIX}{step}.unfinished", folder(run, step)
    write_json(place / "state.json", state)
    files = {str(file.relative_to(place)): _describe(file) for file in _files(place)}
    write_json(place / MANIFEST, {"step": step, "files": files})
    if target.exists():  # an earlier run got here too; what is there is older
        shutil.rmtree(target)
    place.rename(target)
    _sync(target.parent)
    write_atomically(Path(run) / TRACKER, str(step).encode())
    return target


def discard_unfinished(run: str | Path) -> None:
    """Remove what a kill or a full disk left of a checkpoint."""
    for place in Path(run).glob(f".{PREFIX}*.unfinished"):
        shutil.rmtree(place, ignore_errors=True)


def no_room(error: BaseException) -> bool:
    """Whether a file could not be written because the disk, or one's share of it, is full.

    >>> no_room(OSError(errno.ENOSPC, "No space left on device"))
    True
    """
    return (isinstance(error, OSError) and error.errno in _NO_ROOM) or bool(_NO_ROOM_TEXT.search(str(error)))


def steps(run: str | Path) -> list[int]:
    """Steps with a checkpoint, in order, damaged or not."""
    found = (path.name.removeprefix(PREFIX) for path in Path(run).glob(f"{PREFIX}*") if path.is_dir())
    return sorted(int(number) for number in found if number.isdigit())


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        listed = json.loads((checkpoint / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is missing or can't be read"
    for name, wanted in listed.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != wanted["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {wanted['bytes']}"
        if _describe(file)["sha256"] != wanted["sha256"]:
            return f"{name} has changed since it was saved"
    return None


def latest_whole(run: str | Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint without damage, and a line for each newer one that was passed over."""
    passed: list[str] = []
    for step in reversed(steps(run)):
        problem = damage(folder(run, step))
        if problem is None:
            return folder(run, step), passed
        passed.append(f"checkpoint {folder(run, step)} is damaged ({problem}); passed over")
    return None, passed


def find(run: str | Path, resume: str) -> tuple[Path | None, list[str]]:
    """What to resume from: `auto` takes the newest whole one of the run, `none` nothing, else a path is given.

    The lines say what was passed over.
    """
    if resume == "none":
        return None, []
    if resume == "auto":
        return latest_whole(run)
    chosen = Path(resume)
    if not chosen.name.startswith(PREFIX):
        raise UserError(f"segzero.resume={resume}: give auto, none or a folder {PREFIX}N")
    problem = damage(chosen)
    if problem:
        raise UserError(f"segzero.resume={resume}: the checkpoint is damaged ({problem}); choose another or auto")
    return chosen, []


def check_world_size(checkpoint: Path, wanted: int) -> None:
    """verl's shards fit only as many processes as saved them."""
    saved = world_size(checkpoint)
    if saved is not None and saved != wanted:
        raise UserError(
            f"{checkpoint} was saved by {saved} processes, this run has {wanted}; use {saved} GPUs, or merge it "
            f"(segzero merge) and start from the merged model"
        )


def world_size(checkpoint: Path) -> int | None:
    """How many processes saved it."""
    try:
        return int(json.loads((checkpoint / "actor" / "fsdp_config.json").read_text())["world_size"])
    except (OSError, ValueError, KeyError):
        return None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What `finish` was given."""
    return json.loads((checkpoint / "state.json").read_text())


def prune(run: str | Path, keep_last: int, keep: Iterable[int] = ()) -> list[int]:
    """Remove all but the newest `keep_last` checkpoints and those in `keep`; 0 keeps all. Returns what went."""
    if keep_last <= 0:
        return []
    spare = set(steps(run)[-keep_last:]) | set(keep)
    gone = [step for step in steps(run) if step not in spare]
    for step in gone:
        shutil.rmtree(folder(run, step))
    return gone


def best(run: str | Path) -> dict[str, Any] | None:
    """The best validation so far, with its step."""
    try:
        return json.loads((Path(run) / BEST).read_text())
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: Any) -> None:
    """A JSON file that appears whole."""
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def _files(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file() and path.name != MANIFEST)


def _describe(file: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
        os.fsync(content.fileno())
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}


def _sync(place: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

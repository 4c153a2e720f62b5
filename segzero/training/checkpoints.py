"""Checkpoints that are whole or absent: they are saved under a temporary name, and renamed when complete.

A folder `global_step_N` in the run's folder holds verl's files (`actor/`, `data.pt`) and `state.json`, our own state.
`manifest.json` lists every file with its size and hash; it is written last, before the renaming. A kill at any
moment leaves the earlier checkpoints as they were, and at most hidden folders beside them. The best step may be saved
as weights alone, which can be merged but not resumed.

>>> steps("no such folder")
[]
"""

import errno
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from segzero.errors import UserError
from segzero.io import sync, write_atomically, write_json
from segzero.training import checkpoint_manifest as manifest

PREFIX = "global_step_"  # verl's name for the folder
TRACKER = "latest_checkpointed_iteration.txt"  # for verl's own tools
BEST = "best.json"  # {"step": 200, "by": "val/giou", "metrics": {...}}
_REPLACED = ".replaced"  # suffix of a folder while another takes its place
NOT_SHARED = "The nodes don't share that folder; set trainer.default_local_dir to one that all of them see"
_MOST_PROCESSES = 1 << 16
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Messages of torch and safetensors in place of the system's own.
_NO_ROOM_TEXT = re.compile(r"No space left|Disk quota|File too large|inline_container|PytorchStreamWriter")


def folder(run: str | Path, step: int) -> Path:
    """Path of a step's checkpoint, which need not exist yet."""
    return Path(run) / f"{PREFIX}{step}"


def new_unfinished(run: str | Path, step: int) -> Path:
    """Make an empty folder to save a step into, before `finish`."""
    place = Path(run) / f".{PREFIX}{step}.unfinished"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def finish(run: str | Path, step: int, state: dict[str, Any], weights_only: bool = False) -> Path:
    """Write the manifest of the folder that `new_unfinished` made, and give the folder its final name."""
    place, target = Path(run) / f".{PREFIX}{step}.unfinished", folder(run, step)
    missing = missing_shards(place)
    if missing:
        shutil.rmtree(place)
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"step {step} can't be saved: {', '.join(missing[:3])}{more} did not arrive in {run}. {NOT_SHARED}"
        )
    write_json(place / "state.json", state, indent=1, allow_nan=True)
    manifest.write(place, step, weights_only)
    replaced = Path(run) / f".{PREFIX}{step}{_REPLACED}"
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():  # an older one, of an earlier run
        target.rename(replaced)
    place.rename(target)
    sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    if not weights_only:
        write_atomically(Path(run) / TRACKER, str(step).encode())
    return target


def missing_shards(place: Path) -> list[str]:
    """Files that are missing if all trainers should have saved into this folder."""
    size = world_size(place)
    if size is None:
        return ["actor/fsdp_config.json"]
    parts = [part for part in ("optim", "extra_state") if any((place / "actor").glob(f"{part}_world_size_*"))]
    names = [f"actor/{part}_world_size_{size}_rank_{rank}.pt" for part in ("model", *parts) for rank in range(size)]
    return [name for name in names if not (place / name).is_file()]


def discard_unfinished(run: str | Path) -> None:
    """Remove the rest of a checkpoint after a kill or a full disk, and restore the one that it was replacing."""
    for replaced in Path(run).glob(f".{PREFIX}*{_REPLACED}"):
        target = replaced.with_name(replaced.name.removeprefix(".").removesuffix(_REPLACED))
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.rename(target)
    for place in Path(run).glob(f".{PREFIX}*.unfinished"):
        shutil.rmtree(place, ignore_errors=True)


def no_room(error: BaseException) -> bool:
    """Whether a file could not be written because the disk or the user's quota is full.

    >>> no_room(OSError(errno.ENOSPC, "No space left on device"))
    True
    """
    return (isinstance(error, OSError) and error.errno in _NO_ROOM) or bool(_NO_ROOM_TEXT.search(str(error)))


def steps(run: str | Path) -> list[int]:
    """Steps with a checkpoint, in order, damaged or not."""
    numbers = (path.name.removeprefix(PREFIX) for path in Path(run).glob(f"{PREFIX}*") if path.is_dir())
    return sorted(int(number) for number in numbers if number.isdecimal())


def damage(checkpoint: Path, hashes: bool = True) -> str | None:
    """The damage of a checkpoint in words, or None; without `hashes` only names and sizes are checked."""
    problem = manifest.difference(checkpoint, hashes)
    missing = [] if problem else missing_shards(checkpoint)
    return f"{missing[0]} is missing or can't be read" if missing else problem


def weights_only(checkpoint: Path) -> bool:
    """Whether a checkpoint was saved without optimizer, so that it can't be resumed."""
    try:
        return manifest.read(checkpoint).weights_only
    except ValueError:
        return False


def latest_whole(run: str | Path, hashes: bool = True) -> tuple[Path | None, list[str]]:
    """The newest undamaged checkpoint that can be resumed, and a line for each newer one that was skipped."""
    skipped: list[str] = []
    for step in reversed(steps(run)):
        checkpoint = folder(run, step)
        if weights_only(checkpoint):
            skipped.append(f"checkpoint {checkpoint} holds weights alone, as the best step; passed over")
            continue
        problem = damage(checkpoint, hashes)
        if problem is None:
            return checkpoint, skipped
        skipped.append(f"checkpoint {checkpoint} is damaged ({problem}); passed over")
    return None, skipped


def find(run: str | Path, resume: str, hashes: bool = True) -> tuple[Path | None, list[str]]:
    """Find the checkpoint to resume from, and a line for each that was skipped.

    `resume` is `auto` for the newest whole one of the run, `none`, or a path. Without `hashes` only names and sizes of
    files are checked.
    """
    if resume == "none":
        return None, []
    if resume == "auto":
        return latest_whole(run, hashes)
    chosen = Path(resume)
    if not chosen.name.startswith(PREFIX):
        raise UserError(f"segzero.resume={resume}: give auto, none or a folder {PREFIX}N")
    if weights_only(chosen):
        raise UserError(
            f"segzero.resume={resume}: the checkpoint holds weights alone, without optimizer; merge it "
            f"(segzero merge) and start from the merged model, or choose another or auto"
        )
    problem = damage(chosen, hashes)
    if problem:
        raise UserError(f"segzero.resume={resume}: the checkpoint is damaged ({problem}); choose another or auto")
    return chosen, []


def check_world_size(checkpoint: Path, wanted: int) -> None:
    """Refuse another number of processes than saved the checkpoint: verl's shards fit only that."""
    saved = world_size(checkpoint)
    if saved is not None and saved != wanted:
        raise UserError(
            f"{checkpoint} was saved by {saved} processes, this run has {wanted}; use {saved} GPUs, or merge it "
            f"(segzero merge) and start from the merged model"
        )


def world_size(checkpoint: Path) -> int | None:
    """Number of processes that saved a checkpoint, or None if that can't be read."""
    try:
        size = json.loads((checkpoint / "actor" / "fsdp_config.json").read_text())["world_size"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return size if isinstance(size, int) and 0 < size <= _MOST_PROCESSES else None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The state that `finish` was given."""
    try:
        state = json.loads((checkpoint / "state.json").read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{checkpoint}/state.json can't be read; name another checkpoint by segzero.resume") from error
    if not isinstance(state, dict):
        raise UserError(f"{checkpoint}/state.json holds no run's state; name another checkpoint by segzero.resume")
    return state


def prune(run: str | Path, keep_last: int, keep: Iterable[int] = ()) -> list[int]:
    """Remove all but the newest `keep_last` checkpoints and those in `keep`; 0 keeps all. Returns the removed steps.

    Weights alone don't count among the newest, as they can't be resumed.
    """
    if keep_last <= 0:
        return []
    to_resume = [step for step in steps(run) if not weights_only(folder(run, step))]
    kept = set(to_resume[-keep_last:]) | set(keep)
    removed = [step for step in steps(run) if step not in kept]
    for step in removed:
        shutil.rmtree(folder(run, step))
    return removed


def best(run: str | Path) -> dict[str, Any] | None:
    """The best validation so far, with its step."""
    try:
        content = json.loads((Path(run) / BEST).read_text())
        whole = isinstance(content["step"], int) and isinstance(content["metrics"], dict)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return content if whole else None

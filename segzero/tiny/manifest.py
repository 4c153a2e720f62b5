"""The manifest of a folder of tiny models: sha256 of each file, the command and seed that made it, and its figures."""

import hashlib
import json
from pathlib import Path
from typing import Any

from segzero.errors import UserError
from segzero.io import write_json

NAME = "manifest.json"
# Of each model the folder of its checkpoint, and the name on the checkpoint's card.
FOLDERS = {"policy": "policy", "segmenter": "sam2", "mask_model": "prompt_head"}
SHOWN_NAMES = {"policy": "tiny policy", "segmenter": "tiny SAM2", "mask_model": "tiny prompt head"}


def record(weights: Path, model: str, command: str, seed: int, figures: dict[str, Any]) -> None:
    """Write or replace the entry of a model, with the hashes of its files."""
    path = weights / NAME
    entries = json.loads(path.read_text()) if path.exists() else {}
    entries[model] = {"command": command, "seed": seed, "held_out": figures, "sha256": hashes(weights, model)}
    write_json(path, entries, indent=2)


def read(weights: Path) -> dict[str, Any]:
    """Read the entries, by model."""
    path = weights / NAME
    if not path.exists():
        raise UserError(f"no {NAME} in {weights}; make the models with `python -m segzero.tiny all --out {weights}`")
    return json.loads(path.read_text())


def check(weights: Path) -> list[str]:
    """List the files that are missing, changed or unknown, a line each; none if all are as recorded."""
    differences = []
    for model, entry in read(weights).items():
        actual = hashes(weights, model)
        for name in sorted(entry["sha256"].keys() | actual.keys()):
            if name not in actual:
                differences.append(f"{FOLDERS[model]}/{name} is missing")
            elif name not in entry["sha256"]:
                differences.append(f"{FOLDERS[model]}/{name} is not in the manifest")
            elif actual[name] != entry["sha256"][name]:
                differences.append(f"{FOLDERS[model]}/{name} differs from the manifest")
    return differences


def hashes(weights: Path, model: str) -> dict[str, str]:
    """Hash every file of a model's checkpoint with sha256, by its place in the folder."""
    folder = weights / FOLDERS[model]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

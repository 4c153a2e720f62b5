"""What is in a folder of tiny models: each file's sha256, the command and seed that made it, what was measured."""

import hashlib
import json
from pathlib import Path
from typing import Any

from segzero.errors import UserError

NAME = "manifest.json"
FOLDERS = {"policy": "policy", "segmenter": "sam2"}  # model -> its checkpoint's folder
SHOWN = {"policy": "tiny policy", "segmenter": "tiny SAM2"}  # model -> what its checkpoint's card calls it


def record(weights: Path, model: str, command: str, seed: int, figures: dict[str, Any]) -> None:
    """Write or replace a model's entry, with the hashes of the files that are there now."""
    path = weights / NAME
    entries = json.loads(path.read_text()) if path.exists() else {}
    entries[model] = {"command": command, "seed": seed, "held_out": figures, "sha256": hashes(weights, model)}
    new = path.with_suffix(".new")
    new.write_text(json.dumps(entries, indent=2) + "\n")
    new.replace(path)


def read(weights: Path) -> dict[str, Any]:
    """The entries by model."""
    path = weights / NAME
    if not path.exists():
        raise UserError(f"no {NAME} in {weights}; make the models with `python -m segzero.tiny all --out {weights}`")
    return json.loads(path.read_text())


def check(weights: Path) -> list[str]:
    """One line for each file that is missing, changed or unknown; none if all is as recorded."""
    troubles = []
    for model, entry in read(weights).items():
        found = hashes(weights, model)
        for name in sorted(entry["sha256"].keys() | found.keys()):
            if name not in found:
                troubles.append(f"{FOLDERS[model]}/{name} is missing")
            elif name not in entry["sha256"]:
                troubles.append(f"{FOLDERS[model]}/{name} is not in the manifest")
            elif found[name] != entry["sha256"][name]:
                troubles.append(f"{FOLDERS[model]}/{name} differs from the manifest")
    return troubles


def hashes(weights: Path, model: str) -> dict[str, str]:
    """sha256 of every file of a model's checkpoint."""
    folder = weights / FOLDERS[model]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*"))}

"""Options of a command in a JSON file: written by one run, read back by `--options FILE`.

A file holds an object of option names as Python spells them, such as {"policy": "models/mine", "max_tokens": 512}.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from segzero.errors import UserError, unknown_name

NAME = "options.json"


def write_options(folder: Path, options: Mapping[str, Any]) -> Path:
    """Write the options of this call, defaults included, to options.json in the folder."""
    from segzero.io import write_json

    values = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    write_json(folder / NAME, values, indent=1)
    return folder / NAME


def read_options(context: typer.Context, file: Path | None) -> Path | None:
    """Let the file's options be the defaults of this call; the callback of an eager `--options`."""
    if file is None:
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read options from {file}: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f'{file} holds no options; it must be a JSON object such as {{"max_tokens": 512}}')
    known = {str(parameter.name): parameter for parameter in context.command.params if parameter.name != "help"}
    for name, value in values.items():
        if name not in known:
            raise unknown_name(f"option in {file}:", name, list(known))
        several = getattr(known[name], "multiple", False)
        if value is not None and not (_is_list(value) if several else isinstance(value, str | int | float)):
            kind = "a list of texts" if several else "a text, a number, true or false"
            raise UserError(f"{file}: {name} must be {kind}")
    context.default_map = {name: value for name, value in values.items() if value is not None}
    return file


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)

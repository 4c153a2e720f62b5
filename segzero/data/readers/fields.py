"""Records and their fields, as all readers use them: each value is checked for its type.

>>> get({"height": 480}, "height", int)
480
>>> get({"height": "tall"}, "height", int)
Traceback (most recent call last):
segzero.errors.UserError: 'height' must be a whole number, not 'tall'
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segzero.errors import UserError
from segzero.masks import MAX_PIXELS
from segzero.prompts import normalise
from segzero.sample import Sample

MAX_LINE = 1 << 28  # bytes of one JSON line; nested boolean masks take many
MAX_INTEGER = 2**63 - 1
REQUIRED: Any = object()  # the default of a field that must be present

TYPE_NAMES: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object of named fields",
    bool: "true or false",
}


@dataclass(frozen=True)
class Record:
    """A record of a file that has not been parsed; `samples` raises a UserError if it is malformed."""

    where: str  # file and record, for error messages
    samples: Callable[[], Iterable[Sample]]


def get(record: object, name: str, *kinds: type, default: Any = REQUIRED) -> Any:
    """Get `record[name]`, which must be of one of the types; `default` is for a value that is absent or null."""
    if not isinstance(record, Mapping):
        raise UserError(f"it must be an object of named fields, not {brief(record)}")
    value = record.get(name)
    if value is None:
        if default is REQUIRED:
            raise UserError(f"it lacks {name!r}")
        return default
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise UserError(f"{name!r} must be {' or '.join(TYPE_NAMES[kind] for kind in kinds)}, not {brief(value)}")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise UserError(f"{name!r} is a number of more than 64 bits")
    if isinstance(value, str):
        _check_text(value, repr(name))
    return value


def get_id(record: object, name: str, default: Any = REQUIRED) -> str:
    """Get an id, which files write as a number or as text."""
    return str(get(record, name, int, str, default=default))


def get_size(record: object, width: str = "width", height: str = "height") -> tuple[int, int]:
    """Get the (width, height) of an image that a record states."""
    size = get(record, width, int), get(record, height, int)
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise UserError(f"an image of {size[0]}x{size[1]} pixels; 1 to {MAX_PIXELS} are read")
    return size


def question(text: object) -> str:
    """Check a prompt, which `segzero.prompts` must be able to render, and strip the white space around it."""
    if not isinstance(text, str):
        raise UserError(f"its prompt must be text, not {brief(text)}")
    if not any(character.isprintable() and not character.isspace() for character in text):
        raise UserError("its prompt is empty")
    _check_text(text, "its prompt")
    normalise(text)
    return text.strip()


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what} holds half a character (a lone surrogate), which no file can store") from None


def plain(text: str) -> str:
    """Turn text into a part of a file name: at most forty letters, digits and underscores.

    >>> plain("../val 2")
    '___val_2'
    """
    return re.sub(r"\W", "_", text)[:40]


def brief(value: object) -> str:
    """Format a value for an error message: one short line, however large the value is."""
    if isinstance(value, str | bytes):
        return repr(value[:40])
    is_short = isinstance(value, int | float) and abs(value) < 1e15
    return repr(value) if is_short else type(value).__name__


def read_text(path: Path, encodings: tuple[str, ...] = ("utf-8-sig",)) -> str:
    """Read a text file in the first of the encodings that fits."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise UserError(f"cannot read {path}: it is not {' or '.join(encodings)} text")


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text; a UserError says in one line why it can't be parsed."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"it is not JSON: {' '.join(str(error).split())}") from error


def read_json(path: Path, encodings: tuple[str, ...] = ("utf-8-sig",)) -> Any:
    """Read a JSON file."""
    try:
        return parse_json(read_text(path, encodings))
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from error


def json_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Read the lines of a JSON-lines file, each with its place and not parsed; one is in memory at a time."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE):
                number += 1
                if len(line) == MAX_LINE:
                    raise UserError(f"{path}, line {number} has {MAX_LINE} bytes or more; write one record per line")
                if line.strip():
                    yield f"{path}, line {number}", line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Read the rows of a table, each with its place; commas, semicolons or tabs separate cells, as in the header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            rows = csv.DictReader(file, delimiter=max(",;\t", key=header.count), skipinitialspace=True)
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                cells = ((name, value) for name, value in row.items() if isinstance(value, str) and value.strip())
                yield where, {str(name).strip(): value.strip() for name, value in cells}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: it is not a table in UTF-8: {error}") from error

"""Atomic writes, JSON files and locks of folders."""

import errno
import fcntl
import io
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image

from segzero.errors import UserError


def write_atomically(path: Path, data: bytes) -> Path:
    """Write a file whole or not at all: under another name in the same folder first, then renamed.

    The file and its name are on the disk when this returns, so that a power cut leaves the old file or the new one.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; nothing was left half-written") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk, so that a power cut does not lose it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock(folder: Path, busy: str) -> Iterator[None]:
    """Lock a folder for this process while the context lasts; another process gets a UserError that says `busy`.

    The kernel holds the lock, and releases it when the process ends, however that happens. The empty file `.lock` stays
    behind: if it were removed, two processes could lock two files of that name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(busy) from None
        except OSError:
            pass  # a file system without locks: the user must take care, as with every other program there
        yield
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder that appears whole or not at all: write into the one that is yielded, which is renamed at the end.

    `path` may exist as an empty folder. What was written is on the disk when the name appears; if anything fails,
    nothing is left.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        for file in (*unfinished.rglob("*"), unfinished):
            sync(file)
        if path.is_dir():
            path.rmdir()
        unfinished.rename(path)
        sync(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Make a folder as `new_folder` does, in place of an older one, which goes when the new one is whole."""
    fresh = path.with_name(f".{path.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    with new_folder(fresh) as unfinished:
        yield unfinished
    shutil.rmtree(path, ignore_errors=True)
    fresh.rename(path)


def append_line(file: Path, line: bytes) -> None:
    """Append a line to a file, which is created if there is none: whole and on the disk, or not at all.

    Processes take turns, so that none truncates another's line. A line that was left incomplete before (by a crash, or
    by a full disk that did not allow to remove it) is ended first.
    """
    with file.open("a+b", buffering=0) as end:
        with suppress(OSError):  # a file system without locks; a server alone needs none
            fcntl.flock(end, fcntl.LOCK_EX)
        size = end.seek(0, os.SEEK_END)
        try:
            if size and os.pread(end.fileno(), 1, size - 1) != b"\n":
                line = b"\n" + line
            if (written := os.write(end.fileno(), line)) < len(line):
                raise OSError(errno.ENOSPC, f"{written} of {len(line)} bytes fitted on the disk")
            os.fsync(end.fileno())
        except OSError:
            with suppress(OSError):
                os.ftruncate(end.fileno(), size)
            raise


def write_json(path: Path, content: Any, indent: int | None = None, allow_nan: bool = False) -> Path:
    """Write a JSON file in UTF-8, whole or not at all; lone surrogates in text become escapes."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=allow_nan)
    return write_atomically(path, (text + "\n" if indent else text).encode("utf-8", "backslashreplace"))


def read_json(path: Path, *names: str) -> dict[str, Any]:
    """Read a JSON object that has these names and only finite numbers; a ValueError says what is wrong."""

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError(f"{text[:20]} is not a number in JSON")
        return number

    try:
        content: dict[str, Any] = json.loads(path.read_bytes(), parse_constant=finite, parse_float=finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    missing = [name for name in names if not isinstance(content, dict) or name not in content]
    if missing:
        raise ValueError(f"it lacks {missing[0]!r}")
    return content


def finite_or_zero(value: float) -> float:
    """A number that JSON can hold; a model run in half precision may give nan or inf, which become 0.

    >>> finite_or_zero(0.5), finite_or_zero(float("nan"))
    (0.5, 0.0)
    """
    return float(value) if math.isfinite(value) else 0.0


def png_bytes(image: Image.Image) -> bytes:
    """Encode an image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=3)  # a third of the time of the usual 6, for files a tenth larger
    return file.getvalue()

"""Dialogues as JSON files, checked like any untrusted file when they are read back.

{"version": 1, "memory": "text", "image": {"width": 640, "height": 480, "sha256": "..."}, "rounds": [
    {"question": "the mug", "refers": [], "think": "...", "raw_text": "...", "error": null, "warnings": [], "regions": [
        {"box": [x0, y0, x1, y1], "points": [[x, y]], "labels": [1], "score": 0.9, "rle": {"size": ..., "counts": ...}}
    ], "steps": [
        {"action": "keep", "points": [], "labels": [], "think": "...", "error": null, "rle": {"size": ..., ...}}
    ]}]}

A round has `steps` where the policy looked at its mask. Numbers and colours of regions are not stored: they follow from
the order. A round drawn by hand may have the question "".
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from PIL import Image

from segzero.answer import ERRORS, MAX_OBJECTS
from segzero.dialogue.correction import MAX_POINTS
from segzero.dialogue.memory import get_memory
from segzero.dialogue.registry import Region, Registry, Round
from segzero.errors import UserError
from segzero.frames import Size
from segzero.io import write_atomically
from segzero.masks import check_rle
from segzero.prompts import normalise
from segzero.result import LOOK_ACTIONS, MOST_LOOKS

VERSION = 1
MAX_BYTES = 1 << 26  # bytes of a file
MAX_ROUNDS = 1000  # rounds of a dialogue
MAX_TEXT = 1_000_000  # characters of a question, a thought or an answer


def write_dialogue(registry: Registry, image: Image.Image, memory: str, path: Path) -> Path:
    """Write a registry to a file, whole or not at all."""
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file in it")
    return write_atomically(path, dialogue_file(registry, image, memory))


def dialogue_file(registry: Registry, image: Image.Image, memory: str) -> bytes:
    """The content of a dialogue's file."""
    data = json.dumps(to_dict(registry, image, memory), allow_nan=False).encode()
    if len(data) > MAX_BYTES:
        raise UserError(f"the dialogue is too large to save: {len(data)} bytes, at most {MAX_BYTES} are read back")
    return data


def read_dialogue(path: Path, image: Image.Image) -> tuple[Registry, str]:
    """Read the registry and the memory mode from a file that was saved about this image."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read the dialogue {path}: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise UserError(f"cannot read the dialogue {path}: it has more than {MAX_BYTES} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise UserError(f"cannot read the dialogue {path}: it is not JSON") from None
    try:
        return from_dict(value, image)
    except UserError as error:
        raise UserError(f"cannot read the dialogue {path}: {error}") from error


def to_dict(registry: Registry, image: Image.Image, memory: str) -> dict[str, Any]:
    """Convert a dialogue to plain types for JSON; the image is represented by its size and hash."""
    return {
        "version": VERSION,
        "memory": memory,
        "image": _identity(image),
        "rounds": [_from_round(round) for round in registry.rounds],
    }


def from_dict(value: Any, image: Image.Image) -> tuple[Registry, str]:
    """Convert what `to_dict` gave back to a registry and a memory mode; anything else is refused."""
    if not isinstance(value, dict) or value.get("version") != VERSION:
        raise UserError(f"it is not a dialogue of version {VERSION}")
    memory = _text(value.get("memory"), "memory")
    get_memory(memory)
    if value.get("image") != _identity(image):
        raise UserError(f"it is about another image than this one of {image.width}x{image.height} pixels")
    registry = Registry(image.size)
    for number, round in enumerate(_list(value.get("rounds"), "rounds", MAX_ROUNDS), 1):
        try:
            registry = registry.add(_to_round(round, number, registry))
        except UserError as error:
            raise UserError(f"its round {number}: {error}") from error
    return registry, memory


def _identity(image: Image.Image) -> dict[str, Any]:
    return {"width": image.width, "height": image.height, "sha256": hashlib.sha256(image.tobytes()).hexdigest()}


def _from_round(round: Round) -> dict[str, Any]:
    return {
        "question": round.question,
        "refers": list(round.refers),
        "think": round.think,
        "raw_text": round.raw_text,
        "error": round.error,
        "warnings": list(round.warnings),
        "regions": [
            {
                "box": list(region.box),
                "points": [list(point) for point in region.points],
                "labels": list(region.labels),
                "score": region.score,
                "rle": region.rle,
            }
            for region in round.regions
        ],
        **({"steps": list(round.steps)} if round.steps else {}),
    }


def _to_round(value: Any, number: int, registry: Registry) -> Round:
    if not isinstance(value, dict):
        raise UserError("it must be an object")
    question, raw_text = _text(value.get("question"), "question"), _text(value.get("raw_text"), "raw_text")
    if question or raw_text:  # a round drawn by hand may have neither
        normalise(question)
    refers = _list(value.get("refers"), "refers", MAX_ROUNDS)
    if not all(type(k) is int and 0 < k < number for k in refers):
        raise UserError("it refers to rounds that are not before it")
    error, warnings = value.get("error"), _list(value.get("warnings"), "warnings", 2 * MAX_OBJECTS)
    if not all(isinstance(code, str) and code in ERRORS for code in [*warnings, *([] if error is None else [error])]):
        raise UserError("its error or a warning is not one that answers have")
    regions = _list(value.get("regions"), "regions", MAX_OBJECTS)
    if error is not None and regions:
        raise UserError("it has an error, and regions all the same")
    first = len(registry.regions) + 1
    return Round(
        number,
        question,
        tuple(_to_region(each, first, place, number, question, registry.size) for place, each in enumerate(regions)),
        tuple(refers),
        _text(value.get("think"), "think"),
        raw_text,
        error,
        tuple(warnings),
        tuple(_to_step(each, registry.size) for each in _list(value.get("steps", []), "steps", MOST_LOOKS)),
    )


def _to_region(value: Any, first: int, place: int, number: int, question: str, size: Size) -> Region:
    if not isinstance(value, dict):
        raise UserError("a region must be an object")
    width, height = size
    x0, y0, x1, y1 = _numbers(value.get("box"), 4)
    if not (0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height):
        raise UserError(f"a region's box is not x0,y0,x1,y1 within the image of {width}x{height} pixels")
    points, labels = _to_points(value, "region", size)
    rle = check_rle(value.get("rle"), size)
    [score] = _numbers([value.get("score")], 1)
    pairs = tuple((x, y) for x, y in points)
    return Region(first + place, number, question, (x0, y0, x1, y1), pairs, tuple(labels), rle, score)


def _to_step(value: Any, size: Size) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError("a step must be an object")
    action, error = value.get("action"), value.get("error")
    if not isinstance(action, str) or action not in LOOK_ACTIONS:
        raise UserError(f"the action of a step must be one of {', '.join(LOOK_ACTIONS)}")
    if error is not None and not (isinstance(error, str) and error in ERRORS):
        raise UserError("the error of a step is not one that answers have")
    points, labels = _to_points(value, "step", size)
    think, rle = _text(value.get("think"), "think"), check_rle(value.get("rle"), size)
    return {"action": action, "points": points, "labels": labels, "think": think, "error": error, "rle": rle}


def _to_points(value: dict[str, Any], what: str, size: Size) -> tuple[list[list[float]], list[int]]:
    """Read points within the image, and their labels."""
    width, height = size
    points = [_numbers(point, 2) for point in _list(value.get("points"), "points", MAX_POINTS)]
    if not all(0 <= x <= width and 0 <= y <= height for x, y in points):
        raise UserError(f"a {what} has a point outside the image of {width}x{height} pixels")
    labels = _list(value.get("labels"), "labels", MAX_POINTS)
    if len(labels) != len(points) or not all(type(label) is int and label in (0, 1) for label in labels):
        raise UserError(f"a {what} needs a label, 0 or 1, for each of its points")
    return points, labels


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise UserError(f"its {what} must be text of at most {MAX_TEXT} characters")
    return value


def _list(value: Any, what: str, limit: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > limit:
        raise UserError(f"its {what} must be a list of at most {limit}")
    return value


def _numbers(value: Any, count: int) -> list[float]:
    if isinstance(value, list) and len(value) == count and all(type(v) in (int, float) for v in value):
        try:
            numbers = [float(v) for v in value]
        except OverflowError:
            numbers = [math.inf]
        if all(math.isfinite(v) for v in numbers):
            return numbers
    raise UserError("a region or a step has something else where finite numbers belong")

"""Reader of answers that users flagged on a server (`segzero serve --flags FOLDER`): FOLDER/flags.jsonl and images/.

{"id": "...", "time": "...", "verdict": "good" | "bad", "note": "...", "policy": "...", "segmenter": "...",
 "image": "images/HASH.png", "width": 640, "height": 480, "question": "the mug", "state": "found", "error": null,
 "think": "...", "raw_text": "...", "turns": [...], "objects": [{"box", "points", "rle"}]}

An answer that was flagged as good is taken for the truth; the last flag of an answer counts.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from segzero.data.readers.annotations import coco_mask, numbers, xyxy
from segzero.data.readers.fields import Record, get, get_id, get_size, json_lines, parse_json, question
from segzero.data.readers.pictures import image_size, inside
from segzero.errors import UserError
from segzero.frames import Size
from segzero.masks import union
from segzero.sample import Object, Sample

FILE = "flags.jsonl"
VERDICTS = ("good", "bad")


def read_flags(source: str | Path, verdict: str = "good") -> Iterator[Record]:
    """Read a Sample of each answer with that verdict; `verdict=bad` gives the wrong answers, for inspection.

    `source` is the folder or its flags.jsonl.
    """
    if verdict not in VERDICTS:
        raise UserError(f"verdict must be good or bad, not {verdict!r}")
    file = Path(source)
    file = file / FILE if file.is_dir() else file
    last = {_answer_id(where, line): where for where, line in json_lines(file)}
    for where, line in json_lines(file):
        if last[_answer_id(where, line)] == where:
            yield Record(where, partial(_samples, line, file.parent, verdict))


def _answer_id(where: str, line: bytes) -> str:
    """The id of the answer; for a malformed line its place, so that it is read and its error is reported."""
    try:
        return get_id(parse_json(line), "id")
    except UserError:
        return where


def _samples(line: bytes, folder: Path, wanted: str) -> list[Sample]:
    flag = parse_json(line)
    verdict, state = get(flag, "verdict", str), get(flag, "state", str)
    if verdict not in VERDICTS:
        raise UserError(f"its verdict must be good or bad, not {verdict[:40]!r}")
    if verdict != wanted or state == "unread":  # an unreadable answer has no objects to be the truth
        return []
    image = inside(folder, get(flag, "image", str))
    size = get_size(flag)
    if image_size(image) != size:
        raise UserError("its image is of another size than it says")
    return [
        Sample(
            get_id(flag, "id"),
            str(image),
            question(get(flag, "question", str)),
            *size,
            tuple(_object(each, size) for each in get(flag, "objects", list)),
            turns=tuple(_turn(each, size) for each in get(flag, "turns", list)),
            source=folder.absolute().name,
            meta={name: get(flag, name, str, default="") for name in ("verdict", "note", "policy", "segmenter")},
        )
    ]


def _object(value: Any, size: Size) -> Object:
    rle = coco_mask(get(value, "rle", dict), size)
    points = tuple(_point(point, size) for point in get(value, "points", list))
    return Object(xyxy(get(value, "box", list), size), points, rle)


def _point(point: Any, size: Size) -> tuple[float, float]:
    if not isinstance(point, list) or len(point) != 2:
        raise UserError("a point must be x, y")
    x, y = numbers(point, "a point")
    if not (0 <= x <= size[0] and 0 <= y <= size[1]):
        raise UserError("a point lies outside the image")
    return x, y


def _turn(value: Any, size: Size) -> dict[str, Any]:
    """An earlier round; it has no boxes if its answer could not be read."""
    turn: dict[str, Any] = {"question": get(value, "question", str)}
    if (boxes := get(value, "boxes", list, default=None)) is not None:
        turn["boxes"] = [list(xyxy(box, size)) for box in boxes]
        points, masks = get(value, "points", list), get(value, "masks", list)
        if not len(boxes) == len(points) == len(masks) or not all(isinstance(each, list) for each in points):
            raise UserError("an earlier round has not as many lists of points and masks as boxes")
        turn["points"] = [[list(_point(point, size)) for point in each] for each in points]
        turn["masks"] = [union([rle], size) for rle in masks]
    return turn

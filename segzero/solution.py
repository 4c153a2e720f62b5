"""Published solutions, the truth of a training row as text or as a list, read into instances.

Seg-Zero writes one object as tags, VisionReasoner a list of objects as JSON:

>>> parse_solution("<box>(10,20),(110,220)</box><points>(50,60),(70,80)</points>")
(Instance(box=(10, 20, 110, 220), points=((50, 60), (70, 80))),)
>>> parse_solution('[{"bbox_2d": [10, 20, 110, 220], "point_2d": [50, 60]}]')
(Instance(box=(10, 20, 110, 220), points=((50, 60),)),)
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from segzero.answer import MAX_COORDINATE, Instance
from segzero.errors import UserError

_BOX = re.compile(r"<box>\((\d+),(\d+)\),\((\d+),(\d+)\)</box>")
_POINTS = re.compile(r"<points>\((\d+),(\d+)\),\((\d+),(\d+)\)</points>")


def parse_solution(text: str, name: str = "truth") -> tuple[Instance, ...]:
    """Read the objects of a published `solution`, in the pixels it is written in; errors begin with `name`."""
    if box := _BOX.search(text):
        x0, y0, x1, y1 = (int(v) for v in box.groups())
        points = _POINTS.search(text)
        px, py, qx, qy = (int(v) for v in points.groups()) if points else (0,) * 4
        return (Instance((x0, y0, x1, y1), ((px, py), (qx, qy)) if points else ()),)
    try:
        items = json.loads(text)
    except ValueError:
        items = None
    if not isinstance(items, list):
        raise UserError(f"{name}: a solution is <box>(x,y),(x,y)</box><points>...</points> or a JSON list of objects")
    return parse_objects(items, name)


def parse_objects(items: Sequence[Mapping[str, Any]], name: str = "truth") -> tuple[Instance, ...]:
    """Read objects written as in either answer format, {"bbox_2d", "point_2d"} or {"bbox", "points_1", "points_2"}.

    Integers stay integers.
    """
    return tuple(_parse_object(item, f"{name}, object {number}") for number, item in enumerate(items))


def _parse_object(item: object, name: str) -> Instance:
    if not isinstance(item, Mapping):
        raise UserError(f'{name}: it must be {{"bbox_2d": [x, y, x, y], "point_2d": [x, y]}}')
    single = "bbox" in item
    box = _numbers(item.get("bbox" if single else "bbox_2d"), 4, f"{name}, box")
    keys = [key for key in (("points_1", "points_2") if single else ("point_2d",)) if key in item]
    return Instance(box, tuple(_numbers(item[key], 2, f"{name}, {key}") for key in keys))


def _numbers(values: Any, count: int, name: str) -> Any:
    """The values as a tuple of `count` finite numbers; arrays and tuples are taken too."""
    try:
        usable = len(values) == count and all(-MAX_COORDINATE <= v <= MAX_COORDINATE for v in values)
    except TypeError:
        usable = False
    if not usable:
        raise UserError(f"{name}: it must be {count} finite numbers, not {values!r}")
    return tuple(values)

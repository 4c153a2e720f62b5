"""Dataclasses made of JSON, whose values have the types that the class declares.

>>> from segzero.evaluation.metrics import Score
>>> typed(Score, {"intersection": 3, "union": "4"})
Traceback (most recent call last):
TypeError: 'union' of a Score is not what it should be
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Made = TypeVar("Made")


def typed(kind: type[Made], values: Mapping[str, Any]) -> Made:
    """Make the dataclass with these values; a TypeError says which one is absent, unknown or of another type."""
    made = kind(**values)
    for name, fits in _checks(kind).items():  # type: ignore[arg-type]
        if not fits(getattr(made, name)):
            raise TypeError(f"{name!r} of a {kind.__name__} is not what it should be")
    return made


@cache
def _checks(kind: type) -> dict[str, Callable[[Any], bool]]:
    hints = get_type_hints(kind)
    return {field.name: _check(hints[field.name]) for field in fields(kind)}


def _check(hint: Any) -> Callable[[Any], bool]:
    """Make a check of values against a type annotation. Numbers must be finite, and True is not a number."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: True
    if hint is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if origin in (Union, UnionType):
        some = [_check(one) for one in inside]
        return lambda value: any(fits(value) for fits in some)
    if origin is tuple:
        each = _check(inside[0])
        return lambda value: isinstance(value, tuple) and all(map(each, value))
    if origin is Mapping:
        named, held = map(_check, inside)
        return lambda value: isinstance(value, Mapping) and all(map(named, value)) and all(map(held, value.values()))
    return lambda value: isinstance(value, hint)

"""Operators of programs: typed functions in one table, which is also the prompt, the documentation and the errors.

A function's annotations are the operator's types, and the first line of its docstring is its help.

>>> print(OPERATORS["LEFT_OF"].signature)
LEFT_OF(masks: Masks, of: Masks) -> Masks
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter as Argument
from inspect import getdoc, signature
from typing import Any, Protocol, get_args, get_type_hints

from PIL import Image

from segzero.masks import points_of
from segzero.programs import geometry
from segzero.programs.values import TYPES, Boxes, Masks, Points, View

MOST_CHOSEN = 1000  # a count in LARGEST and the like


class Models(Protocol):
    """Models that find and draw, as operators call them."""

    whole: View  # the picture

    def find(self, phrase: str, view: View) -> Masks:
        """Find all that a noun phrase names."""
        ...

    def ask(self, question: str, view: View) -> Masks:
        """Let the policy answer a question."""
        ...

    def draw(self, boxes: Boxes, points: Points, view: View) -> Masks:
        """Draw an object in each box, or the one object at all of the points; both in pixels of the whole picture."""
        ...

    def everything(self, view: View) -> Masks:
        """Find all masks."""
        ...


@dataclass(frozen=True)
class Operand:
    """A parameter of an operator: its name, the types that it takes, and whether it may be left out."""

    name: str
    types: tuple[str, ...]
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {' or '.join(self.types)}" + (" (optional)" if self.optional else "")


@dataclass(frozen=True)
class Operator:
    """One operator: its types, its line of help, and the function that computes it."""

    name: str
    operands: tuple[Operand, ...]
    gives: str  # the name of a type; of RESULT the type of what it is given
    help: str
    function: Callable[..., Any]

    @property
    def signature(self) -> str:
        """Name and types, as errors and the prompt write them."""
        return f"{self.name}({', '.join(map(str, self.operands))}) -> {self.gives}"


OPERATORS: dict[str, Operator] = {}
NAMES: dict[Any, tuple[str, ...]] = {
    View: ("Image",), Masks: ("Masks",), Boxes: ("Boxes",), Points: ("Points",), float: ("Number",), str: ("Text",),
}  # fmt: skip


def operator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Enter a function into the table, by its name in capitals. Its first parameter is the models."""
    hints, name = get_type_hints(function), function.__name__.strip("_").upper()
    operands = [
        Operand(one.name, _types(hints[one.name]), one.default is not Argument.empty)
        for one in list(signature(function).parameters.values())[1:]
    ]
    help = (getdoc(function) or "").splitlines()[0]
    gives = " or ".join(_types(hints["return"]))
    OPERATORS[name] = Operator(name, tuple(operands), gives, help, function)
    return function


def _types(hint: Any) -> tuple[str, ...]:
    """Names of the types in an annotation."""
    if hint in NAMES:
        return NAMES[hint]
    return tuple(dict.fromkeys(name for part in get_args(hint) if part is not type(None) for name in _types(part)))


@operator
def find(models: Models, phrase: str, image: View | None = None) -> Masks:
    """Find all things that a noun phrase names: by SAM3, or by the policy and SAM2."""
    return models.find(phrase, image or models.whole)


@operator
def ask(models: Models, question: str, image: View | None = None) -> Masks:
    """Let the policy think about a whole question, and find what answers it."""
    return models.ask(question, image or models.whole)


@operator
def segment(models: Models, places: Boxes | Points, image: View | None = None) -> Masks:
    """Draw one object in each box, or the one object on which all the points lie."""
    boxes = tuple(one for one in places if len(one) == 4)
    points = tuple(one for one in places if len(one) == 2)
    return models.draw(boxes, points, image or models.whole)


@operator
def everything(models: Models, image: View | None = None) -> Masks:
    """Find all masks of the picture, from a grid of points, without any words."""
    return models.everything(image or models.whole)


@operator
def select(models: Models, masks: Masks, where: str) -> Masks:
    """Keep objects by what is measured: a colour, a place in the picture, or a measure such as "area > 0.02"."""
    conditions = geometry.read_condition(where)
    return tuple(one for one in masks if geometry.holds(conditions, one, models.whole.image))


@operator
def union(models: Models, masks: Masks, others: Masks) -> Masks:
    """Take all objects of both, those that are in both once."""
    return geometry.distinct(masks + others)


@operator
def intersect(models: Models, masks: Masks, others: Masks) -> Masks:
    """Keep the parts of objects that lie in the others."""
    return geometry.shared(masks, others, models.whole.whole)


@operator
def subtract(models: Models, masks: Masks, others: Masks) -> Masks:
    """Take the others' pixels away from objects: the mug without its handle."""
    return geometry.without(masks, others, models.whole.whole)


@operator
def except_(models: Models, masks: Masks, others: Masks) -> Masks:
    """Keep the objects that are none of the others: all mugs but the red one."""
    same = geometry.same_as_any(masks, others)
    return tuple(one for one, known in zip(masks, same, strict=True) if not known)


def _first(masks: Masks, count: float, key: Callable[[Any], float]) -> Masks:
    return tuple(sorted(masks, key=key)[: max(0, min(int(count), MOST_CHOSEN))])


@operator
def largest(models: Models, masks: Masks, count: float = 1) -> Masks:
    """Keep the largest object, or so many of the largest."""
    return _first(masks, count, lambda one: -one.area)


@operator
def smallest(models: Models, masks: Masks, count: float = 1) -> Masks:
    """Keep the smallest object, or so many of the smallest."""
    return _first(masks, count, lambda one: one.area)


@operator
def leftmost(models: Models, masks: Masks, count: float = 1) -> Masks:
    """Keep the object farthest to the left, or so many of them."""
    return _first(masks, count, lambda one: one.centre[0])


@operator
def rightmost(models: Models, masks: Masks, count: float = 1) -> Masks:
    """Keep the object farthest to the right, or so many of them."""
    return _first(masks, count, lambda one: -one.centre[0])


@operator
def topmost(models: Models, masks: Masks, count: float = 1) -> Masks:
    """Keep the highest object in the picture, or so many of them."""
    return _first(masks, count, lambda one: one.centre[1])


@operator
def bottommost(models: Models, masks: Masks, count: float = 1) -> Masks:
    """Keep the lowest object in the picture, or so many of them."""
    return _first(masks, count, lambda one: -one.centre[1])


def _beyond(masks: Masks, of: Masks, axis: int, sign: int) -> Masks:
    """Objects whose centre lies beyond the centres of all the others; an object is not beyond itself."""
    if not of:
        return ()
    farthest = max(sign * other.centre[axis] for other in of)
    same = geometry.same_as_any(masks, of)
    return tuple(
        one for one, known in zip(masks, same, strict=True) if not known and sign * one.centre[axis] > farthest
    )


@operator
def left_of(models: Models, masks: Masks, of: Masks) -> Masks:
    """Keep the objects whose centre is to the left of all the others."""
    return _beyond(masks, of, 0, -1)


@operator
def right_of(models: Models, masks: Masks, of: Masks) -> Masks:
    """Keep the objects whose centre is to the right of all the others."""
    return _beyond(masks, of, 0, 1)


@operator
def above(models: Models, masks: Masks, of: Masks) -> Masks:
    """Keep the objects whose centre is higher than all the others."""
    return _beyond(masks, of, 1, -1)


@operator
def below(models: Models, masks: Masks, of: Masks) -> Masks:
    """Keep the objects whose centre is lower than all the others."""
    return _beyond(masks, of, 1, 1)


@operator
def nearest(models: Models, masks: Masks, to: Masks, count: float = 1) -> Masks:
    """Keep the object nearest to any of the others, edge to edge, or so many of the nearest."""
    if not to or not masks:
        return ()
    same = geometry.same_as_any(masks, to)
    left = tuple(one for one, known in zip(masks, same, strict=True) if not known)
    away = {id(one): gap for one, gap in zip(left, geometry.distances(left, to, models.whole.whole), strict=True)}
    return _first(left, count, lambda one: away[id(one)])


@operator
def inside(models: Models, masks: Masks, of: Masks) -> Masks:
    """Keep the objects of which at least half lies within the outline of one of the others."""
    return tuple(one for one in masks if geometry.lies_inside(one, of))


@operator
def count(models: Models, masks: Masks) -> float:
    """Count the objects."""
    return float(len(masks))


@operator
def crop(models: Models, masks: Masks | Boxes, margin: float = 0.1) -> View:
    """Look at the part of the picture around objects or boxes only; what is found there keeps its place."""
    corners = [one if isinstance(one, tuple) else one.bounds for one in masks]
    return crop_view(models.whole, corners, margin)


def crop_view(whole: View, boxes: list[Any], margin: float) -> View:
    """The view of a box around all boxes, wider by a share of its sides; the whole picture if there are none."""
    if not boxes:
        return whole
    x0, y0 = (min(box[place] for box in boxes) for place in (0, 1))
    x1, y1 = (max(box[place] for box in boxes) for place in (2, 3))
    wide, high = (x1 - x0) * max(margin, 0.0), (y1 - y0) * max(margin, 0.0)
    width, height = whole.whole
    left, top = min(max(0, int(x0 - wide)), width - 1), min(max(0, int(y0 - high)), height - 1)
    right, bottom = min(width, max(left + 1, round(x1 + wide))), min(height, max(top + 1, round(y1 + high)))
    part: Image.Image = whole.image.crop((left, top, right, bottom))
    return View(part, (left, top), whole.whole)


@operator
def boxes(models: Models, masks: Masks) -> Boxes:
    """Take the box around each object, to segment it anew."""
    return tuple(one.bounds for one in masks)


@operator
def points(models: Models, masks: Masks) -> Points:
    """Take the point deepest inside each object."""
    return tuple(points_of(one.mask)[0] for one in masks if one.area)


@operator
def result(models: Models, value: Masks | float | str) -> Masks | float | str:
    """End the program with its answer: objects, a number or words."""
    return value


def table() -> list[tuple[str, str]]:
    """Signature and help of every operator, for prompts and documentation."""
    return [(one.signature, one.help) for one in OPERATORS.values()]


def types() -> list[tuple[str, str, str]]:
    """Name, meaning and literal of every type."""
    return [(one.name, one.meaning, one.literal) for one in TYPES.values()]

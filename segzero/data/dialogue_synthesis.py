"""Conversations about an image, from the instances annotated in it: a first question, then others that refer back.

A follow-up is asked only where its answer is beyond doubt, or where nothing is beyond doubt the answer: "left of" needs
every other candidate clearly on one side, "largest" a clear lead.

>>> cup, fork = (Thing(n, Object((x, 40, x + 20, 60), ((x + 10, 50),))) for n, x in (("cup", 10), ("fork", 70)))
>>> [f.text for f in follow_ups([cup, fork], (0,), 1, (100, 100)) if f.targets]
['the fork right of [REF:1]']
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from segzero.frames import Size
from segzero.masks import area, decode
from segzero.sample import Object, Sample

KINDS = ("position", "same", "choice", "part", "nothing")  # of follow-ups
# name -> which coordinate it compares, and whether it asks for the smaller (-1) or the larger (+1) one
EXTREMES = {"leftmost": (0, -1), "rightmost": (0, 1), "topmost": (1, -1), "bottommost": (1, 1)}
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
CLEAR = 0.06  # of the side: how far a centre is from a line it is said to be on one side of
LARGER = 1.3  # times the area of the next
MOST = 3  # things in one answer
PART_INSIDE, PART_SHARE = 0.9, 0.5  # of a part that is inside its whole, and of the whole that it may be
NOTHING = 0.2  # share of follow-ups to which nothing is the answer


@dataclass(frozen=True)
class Thing:
    """One instance: what it is called, and what else is known of it."""

    name: str
    object: Object
    words: Mapping[str, str] = field(default_factory=dict)  # {"colour": "red", "size": "large"}
    whole: int | None = None  # the place of the thing that it is a part of

    @property
    def known(self) -> dict[str, str]:
        """Its name and its words."""
        return {"kind": self.name, **self.words}

    @property
    def centre(self) -> tuple[float, float]:
        """Of its box."""
        x0, y0, x1, y1 = self.object.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True)
class Asked:
    """A round of a conversation: things are told by their places."""

    kind: str  # one of KINDS; of a first round, whatever its maker calls it
    text: str
    targets: tuple[int, ...]
    refers: int = 0  # the round, counted from 1; 0: none
    aspect: str = ""  # what decides: "left of", "colour", "largest"


def follow_ups(
    things: Sequence[Thing], found: Sequence[int], round: int, size: Size, anything: str = ""
) -> list[Asked]:
    """All that can be asked about what a round found; `anything` is a word for whatever there is, if all is known."""
    if len(found) == 1:
        [about] = found
        asked = [*_positions(things, about, size, anything), *_same(things, about), *_parts(things, about)]
    else:
        asked = list(_choices(things, found, size)) if found else []
    mark = f"[REF:{round}]"
    return [replace(each, text=f"{each.text} {mark}", refers=round) for each in asked]


def converse(
    begun: Sequence[Asked],
    things: Sequence[Thing],
    size: Size,
    rounds: int,
    rng: np.random.Generator,
    anything: str = "",
    complete: bool = True,
) -> list[Asked]:
    """The rounds begun and more, up to `rounds` in all; of the kinds that can be asked each is as likely.

    Unless the things are all there are, only choices among what was found are beyond doubt.
    """
    said = list(begun)
    while len(said) < rounds:
        possible = [
            each
            for number, earlier in enumerate(said, 1)
            for each in follow_ups(things, earlier.targets, number, size, anything)
            if all(each.text != one.text for one in said) and (complete or each.kind == "choice")
        ]
        chosen = pick(possible, rng)
        if chosen is None:
            break
        said.append(chosen)
    return said


def pick(possible: Sequence[Asked], rng: np.random.Generator, kind: str = "") -> Asked | None:
    """One of them: of that kind, or of any, answers that are nothing as rare as NOTHING; None where there is none."""
    kinds = _grouped(possible, lambda each: each.kind)
    if not kind:
        empty = rng.random() < NOTHING
        names = [name for name in kinds if (name == "nothing") == empty] or [
            name for name in kinds if name != "nothing"
        ]
        kind = names[rng.integers(len(names))] if names else ""
    of_kind = kinds.get(kind, [])
    return of_kind[rng.integers(len(of_kind))] if of_kind else None


def as_samples(said: Sequence[Asked], things: Sequence[Thing], about: Sample) -> list[Sample]:
    """A Sample for each round, the rounds before it in `turns`; `about` gives the image, the name and the rest."""
    samples: list[Sample] = []
    turns: list[dict[str, Any]] = []
    for number, each in enumerate(said, 1):
        objects = tuple(things[place].object for place in each.targets)
        refers = [each.refers] if each.refers else []
        meta = {**about.meta, "dialogue": about.id, "round": number, "kind": each.kind, "references": refers}
        samples.append(
            replace(
                about,
                id=f"{about.id}-{number}",
                question=each.text,
                objects=objects,
                category=each.kind,
                turns=tuple(turns),
                meta=meta,
            )
        )
        turns.append(samples[-1].turn)
    return samples


def from_instances(samples: Sequence[Sample], rounds: int, rng: np.random.Generator) -> Iterator[Sample]:
    """The questions about one image, each with a conversation that begins with it, wherever one can be had.

    `samples` are all that is annotated in that image. Only if that is all there is of every category, as in COCO, is it
    known what is left of something, or that nothing is; else there are choices among what was found.
    """
    things = things_of(samples)
    places = {_identity(thing.object): place for place, thing in enumerate(things)}
    complete = all("categories" in s.meta and s.category and s.ignore is None for s in samples)
    for sample in samples:
        if sample.turns:
            yield sample
            continue
        first = Asked(sample.category, sample.question, tuple(places[_identity(o)] for o in sample.objects))
        said = converse([first], things, sample.size, rounds, rng, complete=complete) if first.targets else []
        alone = replace(sample, meta={**sample.meta, "dialogue": sample.id, "round": 1})
        yield from as_samples(said, things, sample) if len(said) > 1 else [alone]


def things_of(samples: Iterable[Sample]) -> list[Thing]:
    """Every instance once, called by its category; what lies inside a larger one of another name is a part of it."""
    named: dict[Any, Thing] = {}
    for sample in samples:
        for instance in sample.objects:
            named.setdefault(_identity(instance), Thing(sample.category or sample.question, instance))
    things = list(named.values())
    return [replace(thing, whole=_whole_of(thing, things)) for thing in things]


def _positions(things: Sequence[Thing], about: int, size: Size, anything: str) -> Iterator[Asked]:
    if things[about].whole is not None:
        return
    others = [place for place, thing in enumerate(things) if place != about and thing.whole is None]
    groups = _grouped(others, lambda place: things[place].name)
    if anything and others:
        groups[anything] = others
    for name, group in groups.items():
        for word, (axis, sign) in RELATIONS.items():
            ahead = [sign * (things[p].centre[axis] - things[about].centre[axis]) / size[axis] for p in group]
            if min(map(abs, ahead)) > CLEAR:
                beyond = [place for place, lead in zip(group, ahead, strict=True) if lead > 0]
                if len(beyond) <= 1:
                    yield _asked("position", f"the {name} {word}", beyond, word)


def _same(things: Sequence[Thing], about: int) -> Iterator[Asked]:
    thing = things[about]
    if thing.whole is not None:
        return
    for what, value in thing.known.items():
        alike = [
            place
            for place, other in enumerate(things)
            if place != about and other.whole is None and other.known.get(what) == value
        ]
        if len(alike) <= MOST:
            yield _asked("same", f"others of the same {what} as", alike, what)


def _parts(things: Sequence[Thing], about: int) -> Iterator[Asked]:
    whole = things[about].whole
    if whole is not None:
        yield _asked("part", "the whole of", [whole], "whole")
        return
    for name in dict.fromkeys(thing.name for thing in things if thing.whole is not None):
        parts = [place for place, thing in enumerate(things) if thing.whole == about and thing.name == name]
        if len(parts) <= MOST:
            yield _asked("part", f"the {name} of", parts, name)


def _choices(things: Sequence[Thing], found: Sequence[int], size: Size) -> Iterator[Asked]:
    for word, (axis, sign) in EXTREMES.items():
        ahead = sorted(found, key=lambda place: -sign * things[place].centre[axis])
        if abs(things[ahead[0]].centre[axis] - things[ahead[1]].centre[axis]) > CLEAR * size[axis]:
            yield _asked("choice", f"the {word} of", ahead[:1], word)
    by_area = sorted(found, key=lambda place: _area(things[place].object))
    for word, first, second in (("largest", by_area[-1], by_area[-2]), ("smallest", by_area[0], by_area[1])):
        areas = sorted([_area(things[first].object), _area(things[second].object)])
        if areas[1] > LARGER * areas[0]:
            yield _asked("choice", f"the {word} of", [first], word)
    for what in dict.fromkeys(what for place in found for what in things[place].words):
        for value in dict.fromkeys(thing.words[what] for thing in things if what in thing.words):
            such = [place for place in found if things[place].words.get(what) == value]
            if len(such) <= 1:
                yield _asked("choice", f"the {value} one of", such, value)


def _asked(kind: str, text: str, targets: Sequence[int], aspect: str) -> Asked:
    return Asked(kind if targets else "nothing", text, tuple(targets), aspect=aspect)


def _grouped(items: Iterable[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def _identity(instance: Object) -> tuple[Any, ...]:
    return instance.box, instance.rle["counts"] if instance.rle else ""


def _area(instance: Object) -> float:
    x0, y0, x1, y1 = instance.box
    return area(instance.rle) if instance.rle else (x1 - x0) * (y1 - y0)


def _whole_of(part: Thing, things: Sequence[Thing]) -> int | None:
    """The smallest thing of another name that the part's mask lies in."""
    if part.object.rle is None:
        return None
    inside = None
    wholes = []
    x0, y0, x1, y1 = part.object.box
    for place, thing in enumerate(things):
        a0, b0, a1, b1 = thing.object.box
        if thing.name == part.name or thing.object.rle is None or x0 >= a1 or a0 >= x1 or y0 >= b1 or b0 >= y1:
            continue
        if _area(part.object) <= PART_SHARE * _area(thing.object):
            inside = decode(part.object.rle) if inside is None else inside
            if (decode(thing.object.rle) & inside).sum() >= PART_INSIDE * inside.sum():
                wholes.append(place)
    return min(wholes, key=lambda place: _area(things[place].object), default=None)

"""Synthesis of dialogues from annotated instances: a first question, then questions that refer to earlier answers.

A follow-up question is asked only if its answer is unambiguous: "left of" needs every other candidate clearly on one
side, "largest" needs a clear lead. That nothing matches is a valid answer if it is just as unambiguous.

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
from segzero.sample import Object, Sample, object_key, with_turns

KINDS = ("position", "same", "choice", "part", "nothing")  # kinds of follow-up questions
# word -> the axis it compares (0: x, 1: y), and whether it means the smaller (-1) or the larger (+1) coordinate
EXTREMES = {"leftmost": (0, -1), "rightmost": (0, 1), "topmost": (1, -1), "bottommost": (1, 1)}
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
CLEAR_DISTANCE = 0.06  # fraction of the image side by which a centre must be on one side of another
CLEAR_AREA_RATIO = 1.3  # the largest thing must have this many times the area of the next
MAX_TARGETS = 3  # things in one answer
# A part has this fraction of its pixels inside its whole, and at most this fraction of the whole's area.
PART_INSIDE, PART_SHARE = 0.9, 0.5
NOTHING_SHARE = 0.2  # fraction of follow-up questions that nothing matches


@dataclass(frozen=True)
class Thing:
    """An annotated instance with its name and other known attributes."""

    name: str
    object: Object
    attributes: Mapping[str, str] = field(default_factory=dict)  # {"colour": "red", "size": "large"}
    whole: int | None = None  # index of the thing that this one is a part of

    @property
    def known(self) -> dict[str, str]:
        """The name, as "kind", and the other attributes."""
        return {"kind": self.name, **self.attributes}

    @property
    def centre(self) -> tuple[float, float]:
        """The centre of the object's box."""
        x0, y0, x1, y1 = self.object.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True)
class RoundQuestion:
    """The question of one round of a dialogue, and the indices of the things that answer it."""

    kind: str  # one of KINDS; in a first round, any name
    text: str
    targets: tuple[int, ...]
    refers_to: int = 0  # number of the earlier round that it refers to, counted from 1; 0: none
    aspect: str = ""  # the property that decides the answer: "left of", "colour", "largest"


def follow_ups(
    things: Sequence[Thing], answer: Sequence[int], round: int, size: Size, any_name: str = ""
) -> list[RoundQuestion]:
    """List all questions that can refer to the answer of a round.

    Args:
        things: All annotated instances of the image.
        answer: Indices of the things that answer the round.
        round: Number of that round, counted from 1.
        size: Width and height of the image.
        any_name: A name that fits every thing, such as "shape". Give it only if all things in the image are known.
    """
    if len(answer) == 1:
        [anchor] = answer
        questions = [*_positions(things, anchor, size, any_name), *_same(things, anchor), *_parts(things, anchor)]
    else:
        questions = list(_choices(things, answer, size)) if answer else []
    mark = f"[REF:{round}]"
    return [replace(question, text=f"{question.text} {mark}", refers_to=round) for question in questions]


def extend_dialogue(
    begun: Sequence[RoundQuestion],
    things: Sequence[Thing],
    size: Size,
    rounds: int,
    rng: np.random.Generator,
    any_name: str = "",
    complete: bool = True,
) -> list[RoundQuestion]:
    """Add questions to the rounds begun, up to `rounds` in all; each kind that is possible is equally likely.

    With `complete=False` the image may show more than `things`, so that only choices among an earlier answer are
    unambiguous.
    """
    questions = list(begun)
    while len(questions) < rounds:
        possible = [
            candidate
            for number, earlier in enumerate(questions, 1)
            for candidate in follow_ups(things, earlier.targets, number, size, any_name)
            if all(candidate.text != other.text for other in questions) and (complete or candidate.kind == "choice")
        ]
        chosen = choose_question(possible, rng)
        if chosen is None:
            break
        questions.append(chosen)
    return questions


def choose_question(
    possible: Sequence[RoundQuestion], rng: np.random.Generator, kind: str = ""
) -> RoundQuestion | None:
    """Choose a question of a kind, or of a random kind; None if there is no such question.

    Of random kinds, questions that nothing matches are chosen with probability NOTHING_SHARE.
    """
    by_kind = _grouped(possible, lambda question: question.kind)
    if not kind:
        wants_nothing = rng.random() < NOTHING_SHARE
        kinds = [name for name in by_kind if (name == "nothing") == wants_nothing]
        kinds = kinds or [name for name in by_kind if name != "nothing"]
        kind = kinds[rng.integers(len(kinds))] if kinds else ""
    of_kind = by_kind.get(kind, [])
    return of_kind[rng.integers(len(of_kind))] if of_kind else None


def as_samples(questions: Sequence[RoundQuestion], things: Sequence[Thing], template: Sample) -> list[Sample]:
    """Make a Sample of each round, with the earlier rounds in `turns`; `template` gives image, id and metadata."""
    rounds = []
    for number, question in enumerate(questions, 1):
        references = [question.refers_to] if question.refers_to else []
        dialogue = {"dialogue": template.id, "round": number, "kind": question.kind, "references": references}
        rounds.append(
            replace(
                template,
                id=f"{template.id}-{number}",
                question=question.text,
                objects=tuple(things[index].object for index in question.targets),
                category=question.kind,
                meta={**template.meta, **dialogue},
            )
        )
    return with_turns(rounds)


def with_dialogues(samples: Sequence[Sample], rounds: int, rng: np.random.Generator) -> Iterator[Sample]:
    """Let each question about an image begin a dialogue, if a follow-up question is possible.

    `samples` are all annotations of that image. Only if they are all instances of their categories, as in COCO, is
    it known what is left of something, or that nothing is; otherwise follow-ups choose among an earlier answer.
    """
    things = things_of(samples)
    indices = {object_key(thing.object): index for index, thing in enumerate(things)}
    complete = all("categories" in s.meta and s.category and s.ignore is None for s in samples)
    for sample in samples:
        if sample.turns:
            yield sample
            continue
        first = RoundQuestion(sample.category, sample.question, tuple(indices[object_key(o)] for o in sample.objects))
        alone = replace(sample, meta={**sample.meta, "dialogue": sample.id, "round": 1})
        questions = [first]
        if first.targets:
            questions = extend_dialogue(questions, things, sample.size, rounds, rng, complete=complete)
        yield from as_samples(questions, things, sample) if len(questions) > 1 else [alone]


def things_of(samples: Iterable[Sample]) -> list[Thing]:
    """List each instance once, named by its category; one inside a larger instance of another name is a part of it."""
    by_key: dict[Any, Thing] = {}
    for sample in samples:
        for instance in sample.objects:
            by_key.setdefault(object_key(instance), Thing(sample.category or sample.question, instance))
    things = list(by_key.values())
    return [replace(thing, whole=_whole_of(thing, things)) for thing in things]


def _positions(things: Sequence[Thing], anchor: int, size: Size, any_name: str) -> Iterator[RoundQuestion]:
    """Questions for the only thing on one side of the anchor, or for nothing there."""
    if things[anchor].whole is not None:
        return
    others = [index for index, thing in enumerate(things) if index != anchor and thing.whole is None]
    groups = _grouped(others, lambda index: things[index].name)
    if any_name and others:
        groups[any_name] = others
    for name, group in groups.items():
        for word, (axis, sign) in RELATIONS.items():
            leads = [sign * (things[i].centre[axis] - things[anchor].centre[axis]) / size[axis] for i in group]
            if min(map(abs, leads)) > CLEAR_DISTANCE:
                beyond = [index for index, lead in zip(group, leads, strict=True) if lead > 0]
                if len(beyond) <= 1:
                    yield _question("position", f"the {name} {word}", beyond, word)


def _same(things: Sequence[Thing], anchor: int) -> Iterator[RoundQuestion]:
    """Questions for the other things that share an attribute with the anchor."""
    thing = things[anchor]
    if thing.whole is not None:
        return
    for attribute, value in thing.known.items():
        alike = [
            index
            for index, other in enumerate(things)
            if index != anchor and other.whole is None and other.known.get(attribute) == value
        ]
        if len(alike) <= MAX_TARGETS:
            yield _question("same", f"others of the same {attribute} as", alike, attribute)


def _parts(things: Sequence[Thing], anchor: int) -> Iterator[RoundQuestion]:
    """Questions for the parts of the anchor, or for the whole that it is a part of."""
    whole = things[anchor].whole
    if whole is not None:
        yield _question("part", "the whole of", [whole], "whole")
        return
    for name in dict.fromkeys(thing.name for thing in things if thing.whole is not None):
        parts = [index for index, thing in enumerate(things) if thing.whole == anchor and thing.name == name]
        if len(parts) <= MAX_TARGETS:
            yield _question("part", f"the {name} of", parts, name)


def _choices(things: Sequence[Thing], answer: Sequence[int], size: Size) -> Iterator[RoundQuestion]:
    """Questions for one of several things: by place, by area, or by an attribute that only one of them has."""
    for word, (axis, sign) in EXTREMES.items():
        ahead = sorted(answer, key=lambda index: -sign * things[index].centre[axis])
        if abs(things[ahead[0]].centre[axis] - things[ahead[1]].centre[axis]) > CLEAR_DISTANCE * size[axis]:
            yield _question("choice", f"the {word} of", ahead[:1], word)
    by_area = sorted(answer, key=lambda index: _area(things[index].object))
    for word, first, second in (("largest", by_area[-1], by_area[-2]), ("smallest", by_area[0], by_area[1])):
        areas = sorted([_area(things[first].object), _area(things[second].object)])
        if areas[1] > CLEAR_AREA_RATIO * areas[0]:
            yield _question("choice", f"the {word} of", [first], word)
    for attribute in dict.fromkeys(name for index in answer for name in things[index].attributes):
        values = (thing.attributes[attribute] for thing in things if attribute in thing.attributes)
        for value in dict.fromkeys(values):
            having = [index for index in answer if things[index].attributes.get(attribute) == value]
            if len(having) <= 1:
                yield _question("choice", f"the {value} one of", having, value)


def _question(kind: str, text: str, targets: Sequence[int], aspect: str) -> RoundQuestion:
    return RoundQuestion(kind if targets else "nothing", text, tuple(targets), aspect=aspect)


def _grouped(items: Iterable[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def _area(instance: Object) -> float:
    x0, y0, x1, y1 = instance.box
    return area(instance.rle) if instance.rle else (x1 - x0) * (y1 - y0)


def _whole_of(part: Thing, things: Sequence[Thing]) -> int | None:
    """The index of the smallest thing of another name that contains the part's mask."""
    if part.object.rle is None:
        return None
    inside = None
    wholes = []
    x0, y0, x1, y1 = part.object.box
    for index, thing in enumerate(things):
        a0, b0, a1, b1 = thing.object.box
        if thing.name == part.name or thing.object.rle is None or x0 >= a1 or a0 >= x1 or y0 >= b1 or b0 >= y1:
            continue
        if _area(part.object) <= PART_SHARE * _area(thing.object):
            inside = decode(part.object.rle) if inside is None else inside
            if (decode(thing.object.rle) & inside).sum() >= PART_INSIDE * inside.sum():
                wholes.append(index)
    return min(wholes, key=lambda index: _area(things[index].object), default=None)

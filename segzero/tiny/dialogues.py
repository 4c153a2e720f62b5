"""Conversations about scenes: rounds that refer to earlier ones, with exact answers and short true chains of thought.

>>> rounds = make_dialogues(2, 7)
>>> [sample.question for sample in rounds if sample.meta["references"]][0].endswith("[REF:1]")
True
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from segzero.data.dialogue_synthesis import KINDS, RELATIONS, Asked, Thing, as_samples, converse, follow_ups, pick
from segzero.masks import box_of, encode, points_of
from segzero.sample import Object, Sample
from segzero.tiny.questions import Question, describe, questions_of, region_at
from segzero.tiny.scenes import Scene, make_scene

ROUNDS = 3
ANYTHING, EMBLEM = "shape", "emblem"


@dataclass(frozen=True, eq=False)
class Conversation:
    """A scene, its shapes and emblems as things, and what is asked about them."""

    scene: Scene
    things: tuple[Thing, ...]
    said: tuple[Asked, ...]
    first_think: str

    def answer(self, round: int, echo: bool = False) -> tuple[str, tuple[Object, ...]]:
        """A short chain of thought for that round, what it refers to and then what it finds, and what that is.

        With `echo` what is referred to is found as well, which is wrong.
        """
        asked = self.said[round - 1]
        if not asked.refers:
            return self.first_think, self._objects(asked.targets)
        earlier, found = self.said[asked.refers - 1].targets, asked.targets
        if echo and found:
            found += tuple(place for place in earlier if place not in found)
        think = f"{self._describe(earlier)}; {_link(asked)} {self._describe(found) or 'no'}"
        return think, self._objects(found)

    def _objects(self, places: Sequence[int]) -> tuple[Object, ...]:
        return tuple(self.things[place].object for place in places)

    def _describe(self, places: Sequence[int]) -> str:
        shapes = self.scene.shapes
        parts = [place for place in places if place >= len(shapes)]
        told = [describe([shapes[place] for place in places if place < len(shapes)], self.scene.size)]
        told += [f"{EMBLEM} {region_at(self.things[place].centre, self.scene.size)}" for place in parts]
        return ", ".join(part for part in told if part)


def _link(asked: Asked) -> str:
    """Words between what is referred to and what is found."""
    if asked.aspect in RELATIONS:
        return f"{asked.aspect} it"
    if asked.text.startswith("others"):
        return f"the same {asked.aspect}"
    return {EMBLEM: "its", "whole": "its whole"}.get(asked.aspect, f"the {asked.aspect}")


def make_dialogues(count: int, seed: int, size: int = 224, rounds: int = ROUNDS) -> list[Sample]:
    """All rounds of `count` conversations; the kinds of second rounds take turns.

    As with `make_samples`, seeds from HELD_OUT_SEED on are for tests only.
    """
    return [sample for index in range(count) for sample in _samples(seed, index, size, rounds)]


def conversation(scene: Scene, rng: np.random.Generator, rounds: int = ROUNDS, kind: str = "") -> Conversation | None:
    """One about that scene, its second round of that kind, if it can be had; None where nothing can be asked."""
    things = things_of(scene)
    size = (scene.size, scene.size)
    firsts = [q for q in questions_of(scene, rng) if q.targets]
    pairs: list[tuple[Question, Asked, list[Asked]]] = []
    for question in firsts:
        first = Asked(question.kind, question.text, tuple(scene.shapes.index(shape) for shape in question.targets))
        after = [each for each in follow_ups(things, first.targets, 1, size, ANYTHING) if kind in ("", each.kind)]
        if after:
            pairs.append((question, first, after))
    if not pairs:
        return None
    question, first, after = pairs[rng.integers(len(pairs))]
    second = pick(after, rng, kind)
    if second is None:
        return None
    said = converse([first, second], things, size, rounds, rng, ANYTHING)
    return Conversation(scene, things, tuple(said), question.think)


def things_of(scene: Scene) -> tuple[Thing, ...]:
    """The shapes in their order, then the emblems that some of them carry."""
    shapes = [
        Thing(s.kind, Object(s.box, (s.point,), encode(s.mask)), {"colour": s.colour, "size": s.size_name})
        for s in scene.shapes
    ]
    emblems = []
    for place, shape in enumerate(scene.shapes):
        box = None if shape.part is None else box_of(shape.part)
        if shape.part is not None and box is not None:
            emblems.append(Thing(EMBLEM, Object(box, points_of(shape.part), encode(shape.part)), whole=place))
    return (*shapes, *emblems)


def _samples(seed: int, index: int, size: int, rounds: int) -> list[Sample]:
    rng = np.random.default_rng((seed, index))
    kind = KINDS[index % len(KINDS)]
    talk = None
    while talk is None:
        scene = make_scene(rng, size)
        talk = conversation(scene, rng, rounds, kind)
    file = io.BytesIO()
    Image.fromarray(scene.image).save(file, "png")
    meta = {"shapes": [s.box for s in scene.shapes]}
    about = Sample(f"tiny-dialogue-{seed}-{index}", file.getvalue(), "", size, size, source="tiny-dialogue", meta=meta)
    return as_samples(talk.said, talk.things, about)

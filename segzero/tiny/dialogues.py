"""Dialogues about scenes: rounds that refer to earlier ones, with exact answers and short, true chains of thought.

>>> rounds = make_dialogues(2, 7)
>>> [sample.question for sample in rounds if sample.meta["references"]][0].endswith("[REF:1]")
True
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segzero.data.dialogue_synthesis import (
    KINDS,
    RELATIONS,
    RoundQuestion,
    Thing,
    as_samples,
    choose_question,
    extend_dialogue,
    follow_ups,
)
from segzero.masks import box_of, encode, points_of
from segzero.sample import Object, Sample
from segzero.tiny.questions import Question, describe, questions_of, region_at
from segzero.tiny.scenes import Scene, make_scene

ROUNDS = 3
ANY_SHAPE, EMBLEM = "shape", "emblem"  # names of things


@dataclass(frozen=True, eq=False)
class SceneDialogue:
    """Questions about a scene, whose shapes and emblems are the things."""

    scene: Scene
    things: tuple[Thing, ...]  # the shapes in their order, then the emblems
    questions: tuple[RoundQuestion, ...]
    first_think: str  # chain of thought of the first round

    def answer(self, round: int, echo: bool = False) -> tuple[str, tuple[Object, ...]]:
        """Write a short chain of thought for a round, and list the objects that answer it.

        The thought names the objects that the question refers to and then those that answer it. With `echo` the
        answer wrongly includes the objects referred to, a fault that the shipped policy is taught on purpose.
        """
        question = self.questions[round - 1]
        if not question.refers_to:
            return self.first_think, self._objects(question.targets)
        referred, targets = self.questions[question.refers_to - 1].targets, question.targets
        if echo and targets:
            targets += tuple(index for index in referred if index not in targets)
        think = f"{self._describe(referred)}; {_link(question)} {self._describe(targets) or 'no'}"
        return think, self._objects(targets)

    def _objects(self, indices: Sequence[int]) -> tuple[Object, ...]:
        return tuple(self.things[index].object for index in indices)

    def _describe(self, indices: Sequence[int]) -> str:
        shapes = self.scene.shapes
        parts = [describe([shapes[index] for index in indices if index < len(shapes)], self.scene.size)]
        emblems = [index for index in indices if index >= len(shapes)]
        parts += [f"{EMBLEM} {region_at(self.things[index].centre, self.scene.size)}" for index in emblems]
        return ", ".join(part for part in parts if part)


def _link(question: RoundQuestion) -> str:
    """The words of a thought between the objects referred to and those that answer."""
    if question.aspect in RELATIONS:
        return f"{question.aspect} it"
    if question.text.startswith("others"):
        return f"the same {question.aspect}"
    return {EMBLEM: "its", "whole": "its whole"}.get(question.aspect, f"the {question.aspect}")


def make_dialogues(count: int, seed: int, size: int = 224, rounds: int = ROUNDS) -> list[Sample]:
    """Make all rounds of `count` dialogues; the second rounds take turns by kind.

    As with `make_samples`, seeds from HELD_OUT_SEED on are for tests only.
    """
    return [sample for index in range(count) for sample in _samples(seed, index, size, rounds)]


def make_dialogue(scene: Scene, rng: np.random.Generator, rounds: int = ROUNDS, kind: str = "") -> SceneDialogue | None:
    """Make a dialogue about a scene whose second round is of that kind; None if the scene allows none."""
    things = things_of(scene)
    size = (scene.size, scene.size)
    possible: list[tuple[Question, RoundQuestion, list[RoundQuestion]]] = []
    for question in questions_of(scene, rng):
        if not question.targets:
            continue
        first = RoundQuestion(question.kind, question.text, tuple(scene.shapes.index(s) for s in question.targets))
        seconds = [q for q in follow_ups(things, first.targets, 1, size, ANY_SHAPE) if kind in ("", q.kind)]
        if seconds:
            possible.append((question, first, seconds))
    if not possible:
        return None
    question, first, seconds = possible[rng.integers(len(possible))]
    second = choose_question(seconds, rng, kind)
    if second is None:
        return None
    questions = extend_dialogue([first, second], things, size, rounds, rng, ANY_SHAPE)
    return SceneDialogue(scene, things, tuple(questions), question.think)


def things_of(scene: Scene) -> tuple[Thing, ...]:
    """List the shapes in their order, then the emblems that some of them carry."""
    shapes = [
        Thing(s.kind, Object(s.box, (s.point,), encode(s.mask)), {"colour": s.colour, "size": s.size_name})
        for s in scene.shapes
    ]
    emblems = []
    for index, shape in enumerate(scene.shapes):
        box = None if shape.part is None else box_of(shape.part)
        if shape.part is not None and box is not None:
            emblems.append(Thing(EMBLEM, Object(box, points_of(shape.part), encode(shape.part)), whole=index))
    return (*shapes, *emblems)


def _samples(seed: int, index: int, size: int, rounds: int) -> list[Sample]:
    rng = np.random.default_rng((seed, index))
    kind = KINDS[index % len(KINDS)]
    dialogue = None
    while dialogue is None:
        scene = make_scene(rng, size)
        dialogue = make_dialogue(scene, rng, rounds, kind)
    meta = {"shapes": [s.box for s in scene.shapes]}
    template = Sample(f"tiny-dialogue-{seed}-{index}", scene.png(), "", size, size, source="tiny-dialogue", meta=meta)
    return as_samples(dialogue.questions, dialogue.things, template)

"""Kinds of questions that the shipped policy's supervision never showed, for reinforcement learning to teach.

No question of the supervised training was like them, and the policy answers them no better than by picking a shape
blindly. Their words are new to it, too, except for "emblem": later rounds of dialogues ask for "the emblem of [REF:1]",
but never which shape carries one. As elsewhere, a question is asked only if its answer is unambiguous.

>>> [sample] = skill_samples("warmth", 1, 7)
>>> sample.question, sample.category, len(sample.objects)
('the warm shape', 'warmth', 1)
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from segzero.data.dialogue_synthesis import CLEAR_DISTANCE
from segzero.errors import unknown_name
from segzero.masks import Box, box_iou
from segzero.result import Segmentation
from segzero.sample import Sample
from segzero.tiny.questions import Question, describe, make_training_samples, question_sample
from segzero.tiny.scenes import Scene, SceneShape, make_scene

WARM, COLD = ("red", "yellow"), ("green", "blue", "cyan")  # purple, which is red and blue, is neither
ROUND, ANGULAR = ("circle", "ring"), ("square", "triangle")
# Two fifths of the known questions ask for something absent: a fifth of all, as a skill never does.
TRAINING_THINNING = 5
NAMED = 0.1  # IoU of boxes from which on a box names the shape


@dataclass(frozen=True)
class Skill:
    """A kind of question: the meaning of its words, the questions about a scene, and the shapes that could be meant."""

    meaning: str
    ask: Callable[[Scene], list[Question]]
    candidates: Callable[[Scene], Sequence[SceneShape]] = lambda scene: scene.shapes


def get_skill(name: str) -> Skill:
    """Look up a skill by its name."""
    if name not in SKILLS:
        raise unknown_name("skill", name, list(SKILLS))
    return SKILLS[name]


def skill_samples(name: str, number: int, seed: int) -> list[Sample]:
    """Make samples of one question of a skill per scene; seeds from HELD_OUT_SEED on are for tests only."""
    skill = get_skill(name)
    samples: list[Sample] = []
    for index in count():
        if len(samples) == number:
            break
        rng = np.random.default_rng((seed, index))
        scene = make_scene(rng)
        questions = skill.ask(scene)
        if questions:
            chosen = questions[rng.integers(len(questions))]
            sample = question_sample(f"{name}-{seed}-{index}", scene, scene.png(), chosen)
            blind = 1 / len(skill.candidates(scene))
            samples.append(replace(sample, meta={**sample.meta, "chance": blind}))
    return samples


def mixed_samples(name: str, number: int, seed: int, thinning: int = 2) -> list[Sample]:
    """Make samples in turns: a question of the skill, and one of the kinds that the policy knows.

    `thinning` is that of `make_training_samples`, which makes the latter.
    """
    new = skill_samples(name, number - number // 2, seed)
    known = make_training_samples(number // 2, seed, thinning)
    mixed = [sample for pair in zip(new, known, strict=False) for sample in pair]
    return mixed + new[len(known) :]


def choice(boxes: Sequence[Box], sample: Sample) -> float:
    """Share of an answer's boxes that name the sample's one true shape, each shape counted once; 0 without boxes.

    A box names the shape that it overlaps most. An answer that hedges between two shapes is worth half, as a blind
    choice between them would be, so that an end to hedging is no gain.

    >>> [sample] = skill_samples("warmth", 1, 7)
    >>> choice([sample.objects[0].box], sample), choice([sample.objects[0].box, (0, 0, 1, 1)], sample)
    (1.0, 0.5)
    """
    if not boxes:
        return 0.0
    shapes = [tuple(shape) for shape in sample.meta["shapes"]]
    overlaps = box_iou(boxes, shapes)  # [P, S]
    named = {int(row.argmax()) for row in overlaps if row.max() > NAMED}
    return (shapes.index(tuple(sample.objects[0].box)) in named) / len(boxes)


def choices(results: Iterable[Segmentation], samples: Iterable[Sample]) -> list[float]:
    """Right choices of a policy's answers, one per sample; an answer that cannot be read counts as 0."""
    pairs = zip(results, samples, strict=True)
    return [0.0 if result.error else choice([o.box for o in result.instances], sample) for result, sample in pairs]


def chance(sample: Sample) -> float:
    """The share of right choices of a policy that picks blindly among the shapes that could be meant."""
    return sample.meta["chance"]


def _one(kind: str, text: str, scene: Scene, targets: Sequence[SceneShape]) -> list[Question]:
    """The question, if exactly one of several shapes answers it."""
    if len(targets) != 1 or len(scene.shapes) < 2:
        return []
    return [Question(kind, text, tuple(targets), describe(targets, scene.size))]


def _warmth(scene: Scene) -> list[Question]:
    """Questions for the only shape of a warm or of a cold colour, where every colour is one or the other."""
    if any(shape.colour not in (*WARM, *COLD) for shape in scene.shapes):
        return []
    return _either(scene, "warmth", "colour", {"the warm shape": WARM, "the cold shape": COLD})


def _outline(scene: Scene) -> list[Question]:
    """Questions for the only round shape, or the only one with corners."""
    return _either(scene, "outline", "kind", {"the round shape": ROUND, "the shape with corners": ANGULAR})


def _either(scene: Scene, kind: str, attribute: str, texts: dict[str, Iterable[str]]) -> list[Question]:
    return [
        question
        for text, values in texts.items()
        for question in _one(kind, text, scene, [s for s in scene.shapes if getattr(s, attribute) in values])
    ]


def _middle(scene: Scene) -> list[Question]:
    """The question for the shape between two others from left to right, where it is clearly between them."""
    if len(scene.shapes) != 3:
        return []
    in_order = sorted(scene.shapes, key=lambda shape: shape.centre[0])
    left, middle, right = (shape.centre[0] / scene.size for shape in in_order)
    clear = min(middle - left, right - middle) > CLEAR_DISTANCE
    return _one("middle", "the shape in the middle", scene, in_order[1:2]) if clear else []


def _emblem(scene: Scene) -> list[Question]:
    """The question for the only shape that carries an emblem, where another could: size and kind must not tell."""
    if len(_bearers(scene)) < 2:
        return []
    return _one("emblem", "the shape with an emblem", scene, [s for s in scene.shapes if s.part is not None])


def _bearers(scene: Scene) -> list[SceneShape]:
    """The shapes that may carry an emblem, as `make_scene` draws them."""
    return [shape for shape in scene.shapes if shape.size_name == "large" and shape.kind != "ring"]


SKILLS = {
    "warmth": Skill("warm is red or yellow, cold is green, blue or cyan", _warmth),
    "outline": Skill("round is a circle or a ring, corners have squares and triangles", _outline),
    "middle": Skill("of three shapes the one between the others from left to right", _middle),
    "emblem": Skill("the shape with an emblem on it", _emblem, _bearers),
}

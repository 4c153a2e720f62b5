"""Compositional questions about scenes with their true answers: relations of relations, exclusions and counts.

A question is asked only if its answer is unambiguous, and if every part of it matters: without the exclusion, or with
only one of two relations, the answer would be another one.

>>> [sample] = compositional_samples(1, 5)
>>> sample.category, len(sample.objects)
('relation of relation', 1)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from segzero.data.dialogue_synthesis import CLEAR_AREA_RATIO, CLEAR_DISTANCE, EXTREMES, RELATIONS
from segzero.masks import encode
from segzero.sample import Object, Sample
from segzero.tiny.questions import CLEAR_LEAD, PLURAL
from segzero.tiny.scenes import Scene, SceneShape, make_scene

COMPOSITIONS = ("relation of relation", "exclusion", "count")
SIDES = {"leftmost": "left", "rightmost": "right", "topmost": "top", "bottommost": "bottom"}
COUNTS = {2: "two", 3: "three"}
SIZES = {"largest": -1, "smallest": 1}  # sign of the area by which shapes are sorted
Shapes = tuple[SceneShape, ...]


@dataclass(frozen=True, eq=False)
class Composition:
    """A compositional question, and the shapes that answer it."""

    kind: str  # one of COMPOSITIONS
    text: str
    targets: Shapes


def compositions_of(scene: Scene) -> list[Composition]:
    """List all compositional questions about a scene."""
    return [*_relations(scene), *_exclusions(scene), *_counts(scene)]


def compositional_samples(count: int, seed: int, size: int = 224) -> list[Sample]:
    """Make samples of one compositional question per scene, the kinds taking turns."""
    samples: list[Sample] = []
    index = -1
    while len(samples) < count:
        index += 1
        rng = np.random.default_rng((seed, index))
        scene = make_scene(rng, size)
        wanted = COMPOSITIONS[len(samples) % len(COMPOSITIONS)]
        of_kind = [one for one in compositions_of(scene) if one.kind == wanted]
        if of_kind:
            samples.append(_sample(f"compositional-{seed}-{index}", scene, of_kind[rng.integers(len(of_kind))]))
    return samples


def _sample(id: str, scene: Scene, one: Composition) -> Sample:
    in_order = sorted(one.targets, key=lambda shape: shape.centre[0])
    objects = tuple(Object(shape.box, (shape.point,), encode(shape.mask)) for shape in in_order)
    return Sample(id, scene.png(), one.text, scene.size, scene.size, objects, category=one.kind, source="tiny")


def _nouns(scene: Scene) -> dict[str, Shapes]:
    """Shapes by every noun that names them: "shape", "circle", "red shape", "red circle"."""
    nouns: dict[str, list[SceneShape]] = {}
    for shape in scene.shapes:
        for noun in ("shape", shape.kind, f"{shape.colour} shape", f"{shape.colour} {shape.kind}"):
            nouns.setdefault(noun, []).append(shape)
    return {noun: tuple(shapes) for noun, shapes in nouns.items()}


def _plural(noun: str) -> str:
    """The plural of a noun: its last word is a kind, or "shape"."""
    *colour, kind = noun.split()
    return " ".join([*colour, PLURAL.get(kind, "shapes")])


def _beyond(shapes: Shapes, anchor: SceneShape, word: str, size: int) -> Shapes | None:
    """Shapes on that side of the anchor; None if one of the others is too near to the border between the sides."""
    axis, sign = RELATIONS[word]
    leads = {shape: sign * (shape.centre[axis] - anchor.centre[axis]) / size for shape in shapes if shape is not anchor}
    if any(abs(lead) <= CLEAR_DISTANCE for lead in leads.values()):
        return None
    return tuple(shape for shape, lead in leads.items() if lead > 0)


def _relations(scene: Scene) -> Iterator[Composition]:
    """Questions for the only A beside the only B that is beside C; there are other A and B elsewhere."""
    nouns = _nouns(scene)
    middles: list[tuple[str, SceneShape]] = []
    for last, anchors in nouns.items():
        if last == "shape" or len(anchors) != 1:
            continue
        for noun, shapes in nouns.items():
            for word in RELATIONS:
                beyond = _beyond(shapes, anchors[0], word, scene.size)
                if beyond and len(beyond) == 1 and len(shapes) > 1 + (anchors[0] in shapes):
                    middles.append((f"the {noun} that is {word} the {last}", beyond[0]))
    for phrase, middle in middles:
        for noun, shapes in nouns.items():
            for word in RELATIONS:
                beyond = _beyond(shapes, middle, word, scene.size)
                if beyond and len(beyond) == 1 and len(shapes) > 1 + (middle in shapes):
                    yield Composition(COMPOSITIONS[0], f"the {noun} {word} {phrase}", beyond)


def _exclusions(scene: Scene) -> Iterator[Composition]:
    """Questions for all of a group but its extreme, those of a colour, of a kind, or on one side of another shape."""
    nouns = _nouns(scene)
    for noun, shapes in nouns.items():
        every = f"all {_plural(noun)} except"
        if len(shapes) < 2:
            continue
        for word, chosen in _extremes(shapes, 1, scene.size):
            yield Composition(COMPOSITIONS[1], f"{every} the {word} one", _rest(shapes, chosen))
        for other, others in nouns.items():
            inside = tuple(shape for shape in shapes if shape in others)
            if other.split()[-1] != "shape" and noun.split()[-1] == "shape" and 0 < len(inside) < len(shapes):
                which = other if len(others) == 1 else _plural(other)
                yield Composition(COMPOSITIONS[1], f"{every} the {which}", _rest(shapes, inside))
            if len(others) == 1 and other.count(" ") == 1:
                for word in RELATIONS:
                    beyond = _beyond(shapes, others[0], word, scene.size)
                    if beyond and len(beyond) < len(shapes) and others[0] not in shapes:
                        text = f"{every} those {word} the {other}"
                        yield Composition(COMPOSITIONS[1], text, _rest(shapes, beyond))


def _counts(scene: Scene) -> Iterator[Composition]:
    """Questions for so many of a group at one side, or of the largest or smallest of it."""
    for noun, shapes in _nouns(scene).items():
        for count, number in COUNTS.items():
            if count < len(shapes):
                for word, chosen in _extremes(shapes, count, scene.size):
                    phrase = f"{SIDES[word]} {number}" if word in SIDES else f"{number} {word}"
                    yield Composition(COMPOSITIONS[2], f"the {phrase} {_plural(noun)}", chosen)


def _extremes(shapes: Shapes, count: int, size: int) -> Iterator[tuple[str, Shapes]]:
    """The so many shapes of a group that are clearly ahead of the next one, by the word for how."""
    for word, (axis, sign) in EXTREMES.items():
        ahead = sorted(shapes, key=lambda shape: -sign * shape.centre[axis])
        if abs(ahead[count - 1].centre[axis] - ahead[count].centre[axis]) > CLEAR_LEAD * size:
            yield word, tuple(ahead[:count])
    for word, sign in SIZES.items():
        ordered = sorted(shapes, key=lambda shape: sign * int(shape.mask.sum()))
        areas = sorted(int(shape.mask.sum()) for shape in ordered[count - 1 : count + 1])
        if areas[1] > CLEAR_AREA_RATIO * areas[0]:
            yield word, tuple(ordered[:count])


def _rest(shapes: Shapes, taken: Sequence[SceneShape]) -> Shapes:
    return tuple(shape for shape in shapes if shape not in taken)

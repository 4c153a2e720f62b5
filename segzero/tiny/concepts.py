"""Prompts about scenes with their true answers, in the five families of concepts that ConverSeg's data have.

>>> from segzero.tiny.scenes import make_scene
>>> truths = truths_of(make_scene(np.random.default_rng(7)))
>>> sorted({one.concept for one in truths})
['affordances', 'entities', 'physics', 'relations', 'spatial']
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from segzero.masks import encode
from segzero.sample import Object, Sample
from segzero.tiny.questions import questions_of
from segzero.tiny.scenes import COLOURS, KINDS, Scene, SceneShape, make_scene

ABSENT = "absent"  # kind of a prompt that names a thing that is not in the scene
DRAWS = 6  # of the questions' random variants
# Family -> (kind of the questions in segzero.tiny.questions, beginning of the prompt).
FAMILIES = {
    "entities": (("attribute", "colour", "kind", "size", "several"), "Segment"),
    "spatial": (("place",), "Find"),
    "relations": (("relation", "odd"), "Show"),
}
# What shapes are good for, and what would happen to them: prompt -> kinds that it means.
USES = {
    "Find everything that could roll away": ("circle", "ring"),
    "Find what could hang on a hook": ("ring",),
    "Find what could be stacked into a wall": ("square",),
    "Find what could serve as a ramp": ("triangle",),
}
PHYSICS = {
    "Point out whatever would prick a finger": ("triangle",),
    "Point out what stays put on a slope": ("square", "triangle"),
    "Point out what water would run through": ("ring",),
    "Point out what has no sharp corner": ("circle", "ring"),
}


@dataclass(frozen=True, eq=False)
class Truth:
    """A prompt about a scene, and the shapes that it means; none if nothing fits."""

    concept: str
    kind: str
    prompt: str
    targets: tuple[SceneShape, ...]


@lru_cache(maxsize=64)
def truths_of(scene: Scene) -> tuple[Truth, ...]:
    """List the prompts about a scene; the same scene gives the same ones."""
    found: dict[str, Truth] = {}
    questions = [one for seed in range(DRAWS) for one in questions_of(scene, np.random.default_rng(seed))]
    for concept, (kinds, verb) in FAMILIES.items():
        for one in questions:
            if one.kind in kinds:
                _add(found, Truth(concept, one.kind, f"{verb} {one.text}", one.targets))
    for concept, prompts in (("affordances", USES), ("physics", PHYSICS)):
        for prompt, kinds in prompts.items():
            _add(found, Truth(concept, concept, prompt, tuple(s for s in scene.shapes if s.kind in kinds)))
    for concept, kind, name in _false(scene):
        _add(found, Truth(concept, kind, f"{FAMILIES[concept][1]} the {name}", ()))
    return tuple(found.values())


def _add(found: dict[str, Truth], one: Truth) -> None:
    found.setdefault(one.prompt, one)


def _false(scene: Scene) -> list[tuple[str, str, str]]:
    """Family, kind and name of things that are not there: absent ones, and present ones with a false colour."""
    there = {f"{shape.colour} {shape.kind}" for shape in scene.shapes}
    kinds, colours = {shape.kind for shape in scene.shapes}, {shape.colour for shape in scene.shapes}
    names = [("entities", ABSENT, kind) for kind in KINDS if kind not in kinds]
    names += [("entities", ABSENT, f"{colour} shape") for colour in COLOURS if colour not in colours]
    names += [
        ("entities", "false colour", f"{colour} {kind}")
        for kind in sorted(kinds)
        for colour in sorted(colours)
        if f"{colour} {kind}" not in there
    ]
    return names


def concept_samples(count: int, seed: int, size: int = 224) -> list[Sample]:
    """Make samples of true prompts, one per scene; families take turns, and a fifth of the prompts fit nothing.

    >>> [sample.concept for sample in concept_samples(3, 5)]
    ['entities', 'spatial', 'relations']
    """
    names = [*FAMILIES, "affordances", "physics"]
    samples: list[Sample] = []
    index = -1
    while len(samples) < count:
        index += 1
        rng = np.random.default_rng((seed, index))
        scene = make_scene(rng, size)
        empty = len(samples) % 5 == len(samples) // 5 % 5  # each family in its turn
        wanted = names[len(samples) % len(names)]
        chosen = [
            one for one in truths_of(scene) if (not one.targets if empty else one.targets and one.concept == wanted)
        ]
        if chosen:
            samples.append(_sample(f"concept-{seed}-{index}", scene, chosen[rng.integers(len(chosen))]))
    return samples


def _sample(id: str, scene: Scene, truth: Truth) -> Sample:
    objects = tuple(Object(shape.box, (shape.point,), encode(shape.mask)) for shape in truth.targets)
    return Sample(id, scene.png(), truth.prompt, scene.size, scene.size, objects, concept=truth.concept, source="tiny")

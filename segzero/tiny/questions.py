"""Questions about a scene with their true answers, and samples made of both.

A question is asked only if its answer is unambiguous: "leftmost" needs a clear lead, "left of" needs every other shape
clearly on the other side, "different" needs a single odd one out.

>>> scene = make_scene(np.random.default_rng(7))
>>> sorted({q.kind for q in questions_of(scene, np.random.default_rng(0))} - set(KINDS))
[]
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice

import numpy as np

from segzero.data.dialogue_synthesis import CLEAR_DISTANCE, EXTREMES, RELATIONS
from segzero.masks import box_of, encode, points_of
from segzero.sample import Object, Sample
from segzero.tiny import scenes
from segzero.tiny.scenes import COLOURS, RADII, Scene, SceneShape, make_scene

KINDS = ("attribute", "colour", "kind", "size", "place", "relation", "odd", "several", "nothing")
HELD_OUT_SEED = 1_000_000  # seeds from here on are for tests only; training uses smaller ones

CLEAR_LEAD = 0.04  # fraction of the image's side by which the leftmost must be ahead of the next
MAX_TARGETS = 3  # shapes in one answer
SIZE_WORDS = {"large": "largest", "small": "smallest"}
PLURAL = {"circle": "circles", "square": "squares", "triangle": "triangles", "ring": "rings"}

ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")


@dataclass(frozen=True, eq=False)
class Question:
    """A question with the shapes that answer it and a short, true chain of thought."""

    kind: str  # one of KINDS, or "emblem"
    text: str
    targets: tuple[SceneShape, ...]  # from left to right
    think: str


def questions_of(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """List all questions about a scene; `rng` chooses among variants and invents absent things."""
    questions = [*_by_attributes(scene), *_by_size(scene), *_by_extreme(scene, rng), *_by_region(scene)]
    questions += [*_by_relation(scene), *_odd_one_out(scene), *_several(scene), *_nothing(scene, rng)]
    return questions


def emblem_questions(scene: Scene) -> list[Question]:
    """List the questions for an emblem, by the colour and kind of the shape that carries it."""
    questions = []
    for name, shape in _unique(scene.shapes, _colour_and_kind).items():
        box = None if shape.part is None else box_of(shape.part)
        if shape.part is not None and box is not None:
            emblem = replace(shape, mask=shape.part, part=None, box=box, point=points_of(shape.part)[0])
            think = f"{describe([shape], scene.size)}; its emblem"
            questions.append(Question("emblem", f"the emblem of the {name}", (emblem,), think))
    return questions


def make_samples(count: int, seed: int, size: int = 224) -> list[Sample]:
    """Make `count` samples of one question per scene, the kinds taking turns.

    Scene `i` is drawn by a generator seeded with `(seed, i)`. All training, here and in examples, uses seeds below
    HELD_OUT_SEED, so that `make_samples(500, HELD_OUT_SEED)` shares no scene with it.

    >>> [sample] = make_samples(1, HELD_OUT_SEED)
    >>> sample.meta["kind"], len(sample.objects)
    ('attribute', 1)
    """
    return [_sample(seed, index, size) for index in range(count)]


def make_training_samples(count: int, seed: int, thinning: int = 2) -> list[Sample]:
    """Make samples for reinforcement learning, a fifth of which ask for something absent.

    With fewer of those, the policy forgets how to answer that nothing is there. Of all other questions each
    `thinning`-th is taken; a number that shares no factor with that of the kinds leaves all kinds in.

    >>> [sample.category for sample in make_training_samples(4, 7)]
    ['colour', 'size', 'relation', 'several']
    """
    indices = (i for i in range(thinning * count) if i % thinning == 1 or KINDS[i % len(KINDS)] == "nothing")
    return [_sample(seed, index, 224) for index in islice(indices, count)]


def make_shared_samples(questions: int, seed: int) -> Iterator[Sample]:
    """Make samples without end, up to so many about each scene, of different kinds; emblems are asked for, too.

    >>> first, second = islice(make_shared_samples(2, 7), 2)
    >>> first.image == second.image, first.category == second.category
    (True, False)
    """
    for index in count():
        rng = np.random.default_rng((seed, index))
        scene = make_scene(rng)
        kinds: dict[str, list[Question]] = {}
        for question in [*questions_of(scene, rng), *emblem_questions(scene)]:
            kinds.setdefault(question.kind, []).append(question)
        image = scene.png()
        for number, kind in enumerate(list(rng.permutation(list(kinds)))[:questions]):
            chosen = kinds[kind][rng.integers(len(kinds[kind]))]
            yield question_sample(f"tiny-{seed}-{index}-{number}", scene, image, chosen)


def samples_of(wanted: Callable[[Question], bool], count: int, seed: int) -> list[Sample]:
    """Make samples of one wanted question per scene, emblems included.

    >>> rings = samples_of(lambda question: [shape.kind for shape in question.targets] == ["ring"], 2, 7)
    >>> [len(sample.objects) for sample in rings]
    [1, 1]
    """
    samples: list[Sample] = []
    index = -1
    while len(samples) < count:
        index += 1
        rng = np.random.default_rng((seed, index))
        scene = make_scene(rng)
        chosen = [q for q in [*questions_of(scene, rng), *emblem_questions(scene)] if wanted(q)]
        if chosen:
            sample = question_sample(f"tiny-{seed}-{index}", scene, scene.png(), chosen[rng.integers(len(chosen))])
            samples.append(sample)
    return samples


def _sample(seed: int, index: int, size: int) -> Sample:
    rng = np.random.default_rng((seed, index))
    kind = KINDS[index % len(KINDS)]
    of_kind: list[Question] = []
    while not of_kind:
        scene = make_scene(rng, size)
        of_kind = [q for q in questions_of(scene, rng) if q.kind == kind]
    return question_sample(f"tiny-{seed}-{index}", scene, scene.png(), of_kind[rng.integers(len(of_kind))])


def question_sample(id: str, scene: Scene, image: bytes, question: Question) -> Sample:
    """Make a sample of a question; its meta holds the kind, a true chain of thought and the boxes of all shapes."""
    return Sample(
        id=id,
        image=image,
        question=question.text,
        width=scene.size,
        height=scene.size,
        objects=tuple(Object(s.box, (s.point,), encode(s.mask)) for s in question.targets),
        category=question.kind,
        source="tiny",
        meta={"kind": question.kind, "think": question.think, "shapes": [s.box for s in scene.shapes]},
    )


def region_of(shape: SceneShape, size: int) -> str:
    """Name the region of a shape: "top left", "top", ..., "center"."""
    return region_at(shape.centre, size)


def region_at(centre: tuple[float, float], size: int) -> str:
    """Name the region of a point, one of nine thirds by thirds of the image."""
    column, row = (min(int(3 * c / size), 2) for c in centre)
    return f"{ROWS[row]} {COLUMNS[column]}".strip() or "center"


def describe(shapes: Iterable[SceneShape], size: int) -> str:
    """Describe shapes by name and region: "small red circle top left, large blue ring right"."""
    return ", ".join(f"{s.name} {region_of(s, size)}" for s in shapes)


def _question(kind: str, text: str, targets: Iterable[SceneShape], size: int, premise: str = "") -> Question:
    """The question, whose chain of thought is the premise and a description of the targets."""
    in_order = tuple(sorted(targets, key=lambda s: s.centre[0]))
    return Question(kind, text, in_order, premise + describe(in_order, size))


def _groups(shapes: Iterable[SceneShape], key: Callable[[SceneShape], str]) -> dict[str, list[SceneShape]]:
    groups: dict[str, list[SceneShape]] = {}
    for shape in shapes:
        groups.setdefault(key(shape), []).append(shape)
    return groups


def _colour_and_kind(shape: SceneShape) -> str:
    return f"{shape.colour} {shape.kind}"


def _unique(shapes: Iterable[SceneShape], key: Callable[[SceneShape], str]) -> dict[str, SceneShape]:
    """The shapes that share their key with no other, by that key."""
    return {name: group[0] for name, group in _groups(shapes, key).items() if len(group) == 1}


def _by_attributes(scene: Scene) -> list[Question]:
    named = [
        ("colour", lambda s: f"{s.colour} shape"),
        ("kind", lambda s: s.kind),
        ("attribute", _colour_and_kind),
        ("attribute", lambda s: f"{s.size_name} {s.kind}"),
    ]
    return [
        _question(kind, f"the {name}", [shape], scene.size)
        for kind, key in named
        for name, shape in _unique(scene.shapes, key).items()
    ]


def _by_size(scene: Scene) -> list[Question]:
    if len(scene.shapes) < 2:
        return []
    return [
        _question("size", f"the {SIZE_WORDS[name]} shape", [shape], scene.size)
        for name, shape in _unique(scene.shapes, lambda s: s.size_name).items()
    ]


def _by_extreme(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Questions for the shape farthest to one side, among all, of a kind or of a colour, if it has a clear lead."""
    groups = {"shape": list(scene.shapes)}
    groups |= _groups(scene.shapes, lambda s: s.kind) | _groups(scene.shapes, lambda s: f"{s.colour} shape")
    questions = []
    for name, group in groups.items():
        word = list(EXTREMES)[rng.integers(len(EXTREMES))]
        axis, sign = EXTREMES[word]
        ahead = sorted(group, key=lambda s: -sign * s.centre[axis])
        if len(group) > 1 and abs(ahead[0].centre[axis] - ahead[1].centre[axis]) > CLEAR_LEAD * scene.size:
            questions.append(_question("place", f"the {word} {name}", ahead[:1], scene.size))
    return questions


def _by_region(scene: Scene) -> list[Question]:
    """Questions for the only shape in a corner or in the center, if no other is near that region."""

    def distance(shape: SceneShape, column: int, row: int) -> float:
        """Distance of the shape's centre from the region along the worse axis, as a share of the side; 0 inside."""
        x, y = (c / scene.size for c in shape.centre)
        return max(column / 3 - x, x - (column + 1) / 3, row / 3 - y, y - (row + 1) / 3, 0)

    questions = []
    for column, row in ((0, 0), (2, 0), (1, 1), (0, 2), (2, 2)):
        near = [s for s in scene.shapes if distance(s, column, row) < CLEAR_DISTANCE]
        if len(near) == 1 and distance(near[0], column, row) == 0:
            questions.append(_question("place", f"the shape in the {region_of(near[0], scene.size)}", near, scene.size))
    return questions


def _by_relation(scene: Scene) -> list[Question]:
    """Questions for the only shape on one side of another; each of the rest must be clearly on the other side."""
    questions = []
    for name, anchor in _unique(scene.shapes, _colour_and_kind).items():
        for word, (axis, sign) in RELATIONS.items():
            others = [s for s in scene.shapes if s is not anchor]
            ahead = [sign * (s.centre[axis] - anchor.centre[axis]) / scene.size for s in others]
            beyond = [s for s, lead in zip(others, ahead, strict=True) if lead > 0]
            if len(beyond) == 1 and all(abs(lead) > CLEAR_DISTANCE for lead in ahead):
                premise = f"{describe([anchor], scene.size)}; {word} it "
                questions.append(_question("relation", f"the shape {word} the {name}", beyond, scene.size, premise))
    return questions


def _odd_one_out(scene: Scene) -> list[Question]:
    """The question for the shape that differs where all others agree, unless two shapes do."""
    if len(scene.shapes) < 3:
        return []
    odd = set()
    for key in (lambda s: s.colour, lambda s: s.kind, lambda s: s.size_name):
        groups = sorted(_groups(scene.shapes, key).values(), key=len)
        if len(groups) == 2 and len(groups[0]) == 1:
            odd.add(groups[0][0])
    # Shapes that agree in nothing have no odd one out, even if one of them alone is small.
    others = [s for s in scene.shapes if s not in odd]
    if len(odd) != 1 or len({_colour_and_kind(s) for s in others}) > 1:
        return []
    premise = f"the others are {others[0].colour} {PLURAL[others[0].kind]}; "
    return [_question("odd", "the shape that is different from the others", odd, scene.size, premise)]


def _several(scene: Scene) -> list[Question]:
    groups = _groups(scene.shapes, lambda s: PLURAL[s.kind]) | _groups(scene.shapes, lambda s: f"{s.colour} shapes")
    return [
        _question("several", f"all {name}", group, scene.size)
        for name, group in groups.items()
        if 1 < len(group) <= MAX_TARGETS
    ]


def _nothing(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Two questions for something absent, in the words of other questions."""
    present = {
        name
        for s in scene.shapes
        for name in (_colour_and_kind(s), s.kind, f"{s.colour} shape", f"{s.size_name} {s.kind}")
    }
    phrasings: list[Sequence[str]] = [
        [f"{c} {k}" for c in COLOURS for k in scenes.KINDS],
        [f"{c} shape" for c in COLOURS],
        scenes.KINDS,
        [f"{size} {k}" for size in RADII for k in scenes.KINDS],
    ]
    questions = []
    for which in rng.choice(len(phrasings), size=2, replace=False, p=(0.5, 0.2, 0.15, 0.15)):
        absent = [name for name in phrasings[which] if name not in present]
        if absent:
            name = absent[rng.integers(len(absent))]
            questions.append(Question("nothing", f"the {name}", (), f"no {name}"))
    return questions

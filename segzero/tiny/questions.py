"""Questions about a scene with their true answers, and whole samples made of both.

A question is asked only where its answer is beyond doubt: "leftmost" needs a clear lead, "left of" needs that
every other shape is clearly on the other side, "different" needs one single odd one out.

>>> scene = make_scene(np.random.default_rng(7))
>>> sorted({q.kind for q in questions_of(scene, np.random.default_rng(0))} - set(KINDS))
[]
"""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from segzero.data.dialogue_synthesis import CLEAR, EXTREMES, RELATIONS
from segzero.masks import encode
from segzero.sample import Object, Sample
from segzero.tiny import scenes
from segzero.tiny.scenes import COLOURS, RADII, Scene, Shape, make_scene

KINDS = ("attribute", "colour", "kind", "size", "place", "relation", "odd", "several", "nothing")
HELD_OUT_SEED = 1_000_000  # seeds from here on are for tests only; training uses smaller ones

LEAD = 0.04  # of the side: how far the leftmost is ahead of the next
MOST_AT_ONCE = 3  # shapes in one answer
SIZE_WORDS = {"large": "largest", "small": "smallest"}
PLURAL = {"circle": "circles", "square": "squares", "triangle": "triangles", "ring": "rings"}

ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked, the shapes that answer it (left to right), and a short true chain of thought."""

    kind: str  # one of KINDS
    text: str
    targets: tuple[Shape, ...]
    think: str


def questions_of(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Everything that can be asked about a scene; `rng` chooses among variants and makes up what is absent."""
    found = [*_by_attributes(scene), *_by_size(scene), *_by_extreme(scene, rng), *_by_region(scene)]
    found += [*_by_relation(scene), *_odd_one_out(scene), *_several(scene), *_nothing(scene, rng)]
    return found


def make_samples(count: int, seed: int, size: int = 224) -> list[Sample]:
    """One question a scene, the kinds taking turns; sample `i` depends on `seed` and `i` alone.

    Held out: `make_samples(500, HELD_OUT_SEED)`. Scene `i` of seed `s` is drawn by a generator seeded with
    `(s, i)`, and all training, here and in examples, uses seeds below HELD_OUT_SEED: no scene is ever shared.

    >>> [sample] = make_samples(1, HELD_OUT_SEED)
    >>> sample.meta["kind"], len(sample.objects)
    ('attribute', 1)
    """
    return [_sample(seed, index, size) for index in range(count)]


def make_training_samples(count: int, seed: int) -> list[Sample]:
    """For reinforcement: a fifth asks for something absent, or the policy unlearns to say that nothing is there.

    >>> [sample.category for sample in make_training_samples(4, 7)]
    ['colour', 'size', 'relation', 'several']
    """
    chosen = (i for i in range(2 * count) if i % 2 or KINDS[i % len(KINDS)] == "nothing")
    return [_sample(seed, index, 224) for index in islice(chosen, count)]


def _sample(seed: int, index: int, size: int) -> Sample:
    rng = np.random.default_rng((seed, index))
    kind = KINDS[index % len(KINDS)]
    fitting: list[Question] = []
    while not fitting:
        scene = make_scene(rng, size)
        fitting = [q for q in questions_of(scene, rng) if q.kind == kind]
    question = fitting[rng.integers(len(fitting))]
    file = io.BytesIO()
    Image.fromarray(scene.image).save(file, "png")
    return Sample(
        id=f"tiny-{seed}-{index}",
        image=file.getvalue(),
        question=question.text,
        width=size,
        height=size,
        objects=tuple(Object(s.box, (s.point,), encode(s.mask)) for s in question.targets),
        category=kind,
        source="tiny",
        meta={"kind": kind, "think": question.think, "shapes": [s.box for s in scene.shapes]},
    )


def region_of(shape: Shape, size: int) -> str:
    """Where a shape is: "top left", "top", ..., "center"."""
    return region_at(shape.centre, size)


def region_at(centre: tuple[float, float], size: int) -> str:
    """Where a place is, in thirds of the picture."""
    column, row = (min(int(3 * c / size), 2) for c in centre)
    return f"{ROWS[row]} {COLUMNS[column]}".strip() or "center"


def describe(shapes: Iterable[Shape], size: int) -> str:
    """What was found and where: "small red circle top left, large blue ring right"."""
    return ", ".join(f"{s.name} {region_of(s, size)}" for s in shapes)


def _question(kind: str, text: str, targets: Iterable[Shape], size: int, first: str = "") -> Question:
    in_order = tuple(sorted(targets, key=lambda s: s.centre[0]))
    return Question(kind, text, in_order, first + describe(in_order, size))


def _groups(shapes: Iterable[Shape], key: Callable[[Shape], str]) -> dict[str, list[Shape]]:
    groups: dict[str, list[Shape]] = {}
    for shape in shapes:
        groups.setdefault(key(shape), []).append(shape)
    return groups


def _look(shape: Shape) -> str:
    return f"{shape.colour} {shape.kind}"


def _unique(shapes: Iterable[Shape], key: Callable[[Shape], str]) -> dict[str, Shape]:
    """The shapes that are alone with their key."""
    return {name: group[0] for name, group in _groups(shapes, key).items() if len(group) == 1}


def _by_attributes(scene: Scene) -> list[Question]:
    named = [
        ("colour", lambda s: f"{s.colour} shape"),
        ("kind", lambda s: s.kind),
        ("attribute", _look),
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
    """The leftmost of all shapes, of a kind, of a colour: one direction each, where there is a clear lead."""
    groups = {"shape": list(scene.shapes)}
    groups |= _groups(scene.shapes, lambda s: s.kind) | _groups(scene.shapes, lambda s: f"{s.colour} shape")
    found = []
    for name, group in groups.items():
        word = list(EXTREMES)[rng.integers(len(EXTREMES))]
        axis, sign = EXTREMES[word]
        ahead = sorted(group, key=lambda s: -sign * s.centre[axis])
        if len(group) > 1 and abs(ahead[0].centre[axis] - ahead[1].centre[axis]) > LEAD * scene.size:
            found.append(_question("place", f"the {word} {name}", ahead[:1], scene.size))
    return found


def _by_region(scene: Scene) -> list[Question]:
    """The only shape in a corner or in the center, when no other is near that region."""

    def distance(shape: Shape, column: int, row: int) -> float:
        """How far its centre is from the region, along the worse axis; 0 inside."""
        x, y = (c / scene.size for c in shape.centre)
        return max(column / 3 - x, x - (column + 1) / 3, row / 3 - y, y - (row + 1) / 3, 0)

    found = []
    for column, row in ((0, 0), (2, 0), (1, 1), (0, 2), (2, 2)):
        near = [s for s in scene.shapes if distance(s, column, row) < CLEAR]
        if len(near) == 1 and distance(near[0], column, row) == 0:
            found.append(_question("place", f"the shape in the {region_of(near[0], scene.size)}", near, scene.size))
    return found


def _by_relation(scene: Scene) -> list[Question]:
    """The only shape on one side of another; each of the others must be clearly on the other side."""
    found = []
    for name, anchor in _unique(scene.shapes, _look).items():
        for word, (axis, sign) in RELATIONS.items():
            others = [s for s in scene.shapes if s is not anchor]
            ahead = [sign * (s.centre[axis] - anchor.centre[axis]) / scene.size for s in others]
            beyond = [s for s, lead in zip(others, ahead, strict=True) if lead > 0]
            if len(beyond) == 1 and all(abs(lead) > CLEAR for lead in ahead):
                first = f"{describe([anchor], scene.size)}; {word} it "
                found.append(_question("relation", f"the shape {word} the {name}", beyond, scene.size, first))
    return found


def _odd_one_out(scene: Scene) -> list[Question]:
    """The one shape that differs where all others agree; not asked when two shapes could claim that."""
    if len(scene.shapes) < 3:
        return []
    odd = set()
    for key in (lambda s: s.colour, lambda s: s.kind, lambda s: s.size_name):
        groups = sorted(_groups(scene.shapes, key).values(), key=len)
        if len(groups) == 2 and len(groups[0]) == 1:
            odd.add(groups[0][0])
    # Shapes that agree in nothing have no odd one out, even if one of them alone is small.
    others = [s for s in scene.shapes if s not in odd]
    if len(odd) != 1 or len({_look(s) for s in others}) > 1:
        return []
    first = f"the others are {others[0].colour} {PLURAL[others[0].kind]}; "
    return [_question("odd", "the shape that is different from the others", odd, scene.size, first)]


def _several(scene: Scene) -> list[Question]:
    groups = _groups(scene.shapes, lambda s: PLURAL[s.kind]) | _groups(scene.shapes, lambda s: f"{s.colour} shapes")
    return [
        _question("several", f"all {name}", group, scene.size)
        for name, group in groups.items()
        if 1 < len(group) <= MOST_AT_ONCE
    ]


def _nothing(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Two questions for something absent, in words that other questions use for what is there."""
    present = {
        name for s in scene.shapes for name in (_look(s), s.kind, f"{s.colour} shape", f"{s.size_name} {s.kind}")
    }
    phrasings: list[Sequence[str]] = [
        [f"{c} {k}" for c in COLOURS for k in scenes.KINDS],
        [f"{c} shape" for c in COLOURS],
        scenes.KINDS,
        [f"{size} {k}" for size in RADII for k in scenes.KINDS],
    ]
    found = []
    for which in rng.choice(len(phrasings), size=2, replace=False, p=(0.5, 0.2, 0.15, 0.15)):
        absent = [name for name in phrasings[which] if name not in present]
        if absent:
            name = absent[rng.integers(len(absent))]
            found.append(Question("nothing", f"the {name}", (), f"no {name}"))
    return found

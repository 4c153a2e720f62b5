"""Compositional questions: their true answers, worked out again from the words alone, and that every part matters."""

import re

import numpy as np
import pytest

from segzero.masks import decode
from segzero.tiny.compositional import COMPOSITIONS, compositional_samples, compositions_of
from segzero.tiny.scenes import make_scene

AXES = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
ORDERS = {
    "leftmost": lambda s: s.centre[0], "rightmost": lambda s: -s.centre[0], "topmost": lambda s: s.centre[1],
    "bottommost": lambda s: -s.centre[1], "largest": lambda s: -s.mask.sum(), "smallest": lambda s: s.mask.sum(),
}  # fmt: skip
SIDES = {"left": "leftmost", "right": "rightmost", "top": "topmost", "bottom": "bottommost"}
NUMBERS = {"two": 2, "three": 3}


def named(scene, noun):
    """Shapes that a noun in either number names."""
    *colours, kind = noun.split()
    kind = {"shapes": "shape"}.get(kind, kind)
    return [s for s in scene.shapes if kind.rstrip("s") in ("shape", s.kind) and all(c == s.colour for c in colours)]


def beside(shapes, anchor, word):
    axis, sign = AXES[word]
    return [s for s in shapes if s is not anchor and sign * (s.centre[axis] - anchor.centre[axis]) > 0]


def answer(scene, text):
    """The shapes that a question means, by another way than the one that made it."""
    relation = "left of|right of|above|below"
    if found := re.fullmatch(rf"the (.+?) ({relation}) the (.+?) that is ({relation}) the (.+)", text):
        [last] = named(scene, found[5])
        [middle] = beside(named(scene, found[3]), last, found[4])
        return beside(named(scene, found[1]), middle, found[2])
    if found := re.fullmatch(r"all (.+) except the (\w+most|largest|smallest) one", text):
        ordered = sorted(named(scene, found[1]), key=ORDERS[found[2]])
        return ordered[1:]
    if found := re.fullmatch(rf"all (.+) except those ({relation}) the (.+)", text):
        group, [anchor] = named(scene, found[1]), named(scene, found[3])
        return [s for s in group if s not in beside(group, anchor, found[2])]
    if found := re.fullmatch(r"all (.+) except the (.+)", text):
        return [s for s in named(scene, found[1]) if s not in named(scene, found[2])]
    if found := re.fullmatch(r"the (left|right|top|bottom) (two|three) (.+)", text):
        return sorted(named(scene, found[3]), key=ORDERS[SIDES[found[1]]])[: NUMBERS[found[2]]]
    found = re.fullmatch(r"the (two|three) (largest|smallest|\w+most) (.+)", text)
    return sorted(named(scene, found[3]), key=ORDERS[found[2]])[: NUMBERS[found[1]]]


@pytest.mark.parametrize("seed", range(12))
def test_the_answers_are_true(seed):
    scene = make_scene(np.random.default_rng((41, seed)))
    for one in compositions_of(scene):
        assert set(answer(scene, one.text)) == set(one.targets), one.text
        assert 0 < len(one.targets) < len(scene.shapes), one.text


def test_samples_take_turns_and_are_the_same_again():
    samples = compositional_samples(6, 1)
    assert [sample.category for sample in samples] == [*COMPOSITIONS, *COMPOSITIONS]
    assert samples == compositional_samples(6, 1) and len({sample.id for sample in samples}) == 6
    for sample in samples:
        union = np.any([decode(one.rle) for one in sample.objects], axis=0)
        assert (decode(sample.mask()) == union).all() and sample.source == "tiny"

"""Questions about scenes, each with its only true answer."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from segzero.masks import box_of, decode
from segzero.prompts import normalise
from segzero.tiny.questions import HELD_OUT_SEED, KINDS, make_samples, questions_of, region_of
from segzero.tiny.scenes import make_scene

SINGULAR = {"circles": "circle", "squares": "square", "triangles": "triangle", "rings": "ring", "shapes": "shape"}


@pytest.fixture(scope="module")
def asked():
    rng = np.random.default_rng(5)
    scenes = [make_scene(rng) for _ in range(150)]
    return [(scene, question) for scene in scenes for question in questions_of(scene, rng)]


def matches(shape, words):
    """True if a shape fits every word of a noun phrase like "large red circle"."""
    return all(word in ("shape", shape.colour, shape.kind, shape.size_name) for word in words)


def test_every_kind_is_asked(asked):
    counts = Counter(question.kind for _, question in asked)
    assert set(counts) == set(KINDS)
    assert min(counts.values()) >= 10


@pytest.mark.parametrize("kind", ["attribute", "colour", "kind", "several", "nothing"])
def test_a_description_fits_the_targets_and_nothing_else(asked, kind):
    for scene, question in asked:
        if question.kind != kind:
            continue
        article, *words = question.text.split()
        words = [SINGULAR.get(word, word) for word in words]
        assert set(question.targets) == {s for s in scene.shapes if matches(s, words)}
        if kind == "nothing":
            assert article == "the" and question.targets == ()
        elif kind == "several":
            assert article == "all" and 2 <= len(question.targets) <= 3
        else:
            assert article == "the" and len(question.targets) == 1


def test_size_place_and_relation_have_one_clear_answer(asked):
    axis = {"leftmost": 0, "rightmost": 0, "topmost": 1, "bottommost": 1, "left": 0, "right": 0, "above": 1, "below": 1}
    for scene, question in asked:
        words = question.text.split()
        if question.kind == "size":
            sizes = {s.size_name for s in scene.shapes if s not in question.targets}
            [target] = question.targets
            assert (sizes == {"small"} and words[1] == "largest") or (sizes == {"large"} and words[1] == "smallest")
            bigger = [s for s in scene.shapes if s.radius > target.radius]
            assert not bigger if words[1] == "largest" else len(bigger) == len(scene.shapes) - 1
        elif question.kind == "place" and words[1] in axis:
            [target] = question.targets
            sign = 1 if words[1] in ("leftmost", "topmost") else -1
            rivals = [s for s in scene.shapes if matches(s, words[2:]) and s is not target]
            assert rivals
            assert all(sign * (s.centre[axis[words[1]]] - target.centre[axis[words[1]]]) > 8 for s in rivals)
        elif question.kind == "place":
            region = question.text.removeprefix("the shape in the ")
            assert [s for s in scene.shapes if region_of(s, scene.size) == region] == list(question.targets)
        elif question.kind == "relation":
            anchor_words = question.text.rpartition(" the ")[2].split()
            [anchor] = [s for s in scene.shapes if matches(s, anchor_words)]
            sign = -1 if words[2] in ("left", "above") else 1
            ahead = [s for s in scene.shapes if sign * (s.centre[axis[words[2]]] - anchor.centre[axis[words[2]]]) > 0]
            assert ahead == list(question.targets)
            assert question.think.startswith(anchor.name)


def test_the_odd_one_differs_from_shapes_that_look_alike(asked):
    for scene, question in asked:
        if question.kind == "odd":
            [target] = question.targets
            others = {(s.colour, s.kind) for s in scene.shapes if s is not target}
            assert len(scene.shapes) >= 3 and len(others) == 1
            [(colour, kind)] = others
            assert question.think.startswith(f"the others are {colour} {kind}s; ")


def test_the_chain_of_thought_names_every_target_and_where_it_is(asked):
    for scene, question in asked:
        for target in question.targets:
            assert f"{target.name} {region_of(target, scene.size)}" in question.think
        if not question.targets:
            assert question.think == question.text.replace("the ", "no ", 1)
        assert [s.centre[0] for s in question.targets] == sorted(s.centre[0] for s in question.targets)


def test_questions_are_spelt_as_in_the_prompt(asked):
    assert all(normalise(question.text) == question.text for _, question in asked)


def test_samples_are_complete_and_take_turns():
    samples = make_samples(18, HELD_OUT_SEED + 7)
    assert [s.meta["kind"] for s in samples] == [*KINDS, *KINDS]
    assert len({s.id for s in samples}) == 18
    for sample in samples:
        assert Image.open(io.BytesIO(sample.image)).size == sample.size == (224, 224)
        assert sample.empty == (sample.meta["kind"] == "nothing")
        for thing in sample.objects:
            mask = decode(thing.rle)
            assert thing.box == box_of(mask) and thing.box in sample.meta["shapes"]
            [(x, y)] = thing.points
            assert mask[int(y), int(x)]


def test_a_sample_depends_on_its_seed_and_number_alone():
    few, many, other = make_samples(2, 4), make_samples(4, 4), make_samples(2, 5)
    assert few == many[:2]
    assert few[0].image != other[0].image

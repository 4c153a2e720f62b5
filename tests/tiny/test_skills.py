"""Kinds of questions beyond the supervision: their true answers, the mixture for training, and the measure."""

import numpy as np
import pytest

from segzero.errors import UserError
from segzero.tiny.questions import HELD_OUT_SEED, KINDS, questions_of
from segzero.tiny.scenes import make_scene
from segzero.tiny.skills import SKILLS, chance, choice, get_skill, mixed_samples, skill_samples

MEANT = {  # by question: the shapes of a scene that it means
    "the warm shape": lambda shapes: [s for s in shapes if s.colour in ("red", "yellow")],
    "the cold shape": lambda shapes: [s for s in shapes if s.colour in ("green", "blue", "cyan")],
    "the round shape": lambda shapes: [s for s in shapes if s.kind in ("circle", "ring")],
    "the shape with corners": lambda shapes: [s for s in shapes if s.kind in ("square", "triangle")],
    "the shape in the middle": lambda shapes: sorted(shapes, key=lambda s: s.box[0] + s.box[2])[1:-1],
    "the shape with an emblem": lambda shapes: [s for s in shapes if s.part is not None],
}


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(3)
    return [make_scene(rng) for _ in range(200)]


@pytest.mark.parametrize("name", list(SKILLS))
def test_a_question_means_one_shape_among_several(scenes, name):
    asked = [(scene, question) for scene in scenes for question in SKILLS[name].ask(scene)]
    assert len(asked) >= 20
    for scene, question in asked:
        assert len(scene.shapes) > 1 and question.kind == name
        assert list(question.targets) == MEANT[question.text](scene.shapes)


def test_warm_and_cold_are_asked_only_where_each_colour_is_one_of_them(scenes):
    asked = [scene for scene in scenes if SKILLS["warmth"].ask(scene)]
    assert not any(shape.colour == "purple" for scene in asked for shape in scene.shapes)


def test_an_emblem_is_asked_for_only_where_another_shape_could_carry_it(scenes):
    """Otherwise "the large shape that is no ring" would answer nearly as well, and a policy would learn that."""
    for scene in scenes:
        for question in SKILLS["emblem"].ask(scene):
            bearers = SKILLS["emblem"].candidates(scene)
            assert len(bearers) >= 2 and set(question.targets) < set(bearers)


def test_supervision_never_shows_a_skill(scenes):
    rng = np.random.default_rng(4)
    shown = {question.text for scene in scenes for question in questions_of(scene, rng)}
    assert not shown & MEANT.keys() and not set(SKILLS) & set(KINDS)


def test_training_takes_turns_between_the_skill_and_known_kinds():
    samples = mixed_samples("outline", 7, 7)
    assert [sample.category == "outline" for sample in samples] == [True, False] * 3 + [True]
    assert len({sample.id for sample in samples}) == 7


def test_the_same_seed_gives_the_same_samples_and_held_out_seeds_others():
    first, again = skill_samples("middle", 3, 7), skill_samples("middle", 3, 7)
    assert first == again
    assert not {s.image for s in first} & {s.image for s in skill_samples("middle", 3, HELD_OUT_SEED)}


def test_choice_is_of_the_shape_that_a_box_overlaps_most():
    [sample] = skill_samples("warmth", 1, 7)
    [true], shapes = [o.box for o in sample.objects], sample.meta["shapes"]
    other = next(shape for shape in shapes if shape != true)
    x0, y0, x1, y1 = true
    rough = (x0, y0, x1, y0 + (y1 - y0) / 2)
    assert choice([rough], sample) == 1
    assert choice([other], sample) == 0
    assert choice([], sample) == 0
    assert choice([other, rough], sample) == 0.5
    assert choice([true, true], sample) == 0.5  # twice the same names one shape
    assert choice(shapes, sample) == chance(sample) == 1 / len(shapes)


def test_an_unknown_skill_is_named():
    with pytest.raises(UserError, match="did you mean 'warmth'"):
        get_skill("warmths")

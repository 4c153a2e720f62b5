"""Dialogues about scenes: answers fit the images, thoughts name the right objects, seeds decide."""

from collections import Counter

import numpy as np
import pytest

from segzero.data.dialogue_synthesis import KINDS
from segzero.frames import stretch
from segzero.masks import decode
from segzero.tiny.dialogues import make_dialogue, make_dialogues, things_of
from segzero.tiny.evaluate import chance_score
from segzero.tiny.questions import HELD_OUT_SEED
from segzero.tiny.scenes import make_scene


@pytest.fixture(scope="module")
def rounds():
    return make_dialogues(10, HELD_OUT_SEED)


def test_second_rounds_take_turns_by_kind(rounds):
    kinds = Counter(sample.category for sample in rounds if sample.meta["round"] == 2)
    assert kinds == dict.fromkeys(KINDS, 2)


def test_a_dialogue_depends_on_seed_and_index_alone(rounds):
    assert make_dialogues(3, HELD_OUT_SEED) == [s for s in rounds if int(s.id.split("-")[3]) < 3]
    assert make_dialogues(1, 5)[0].image != make_dialogues(1, 6)[0].image


def test_rounds_refer_to_earlier_ones_with_objects(rounds):
    for sample in rounds:
        assert len(sample.turns) == sample.meta["round"] - 1
        for number in sample.meta["references"]:
            assert sample.turns[number - 1]["boxes"] and f"[REF:{number}]" in sample.question
        assert bool(sample.meta["references"]) == bool(sample.turns)
        assert sample.open().size == sample.size


def test_emblems_are_parts_of_their_shapes():
    rng = np.random.default_rng(1)
    emblems = 0
    for _ in range(30):
        things = things_of(make_scene(rng))
        for thing in things:
            if thing.whole is not None:
                emblems += 1
                inside, around = (decode(each.object.rle) for each in (thing, things[thing.whole]))
                assert inside.any() and not (inside & ~around).any()
    assert emblems > 5


def test_thoughts_name_the_objects_referred_to_and_the_answer():
    rng = np.random.default_rng(4)
    seen = set()
    for _ in range(60):
        dialogue = make_dialogue(make_scene(rng), rng)
        if dialogue is None:
            continue
        shapes = dialogue.scene.shapes
        for number, question in enumerate(dialogue.questions[1:], 2):
            think, objects = dialogue.answer(number)
            assert objects == tuple(dialogue.things[index].object for index in question.targets)
            before, _, after = think.partition("; ")
            seen.add(question.kind)
            referred = dialogue.questions[question.refers_to - 1].targets
            for names, indices in ((before, referred), (after, question.targets)):
                assert all(shapes[index].name in names for index in indices if index < len(shapes))
            assert after.endswith(" no") == (not question.targets)
    assert seen == set(KINDS)


def test_an_echo_also_names_the_objects_referred_to():
    rng = np.random.default_rng(6)
    echoed = 0
    for _ in range(30):
        dialogue = make_dialogue(make_scene(rng), rng)
        for number, question in enumerate(dialogue.questions[1:] if dialogue else (), 2):
            objects, longer = dialogue.answer(number)[1], dialogue.answer(number, echo=True)[1]
            targets = dialogue.questions[question.refers_to - 1].targets
            referred = {dialogue.things[index].object.box for index in targets}
            boxes = {o.box for o in objects}
            assert {o.box for o in longer} == (boxes | referred if boxes else set())
            assert longer[: len(objects)] == objects
            echoed += len(longer) > len(objects)
    assert echoed > 10


def test_repeating_the_reference_counts_as_chance(rounds):
    for sample in rounds:
        assert 0 <= chance_score(sample) <= 1
        if sample.category == "choice":
            assert chance_score(sample) >= 1 / len(sample.turns[sample.meta["references"][0] - 1]["boxes"]) - 1e-9


def test_a_frame_of_another_family_renders_them_too(rounds):
    from segzero.dialogue.prompting import sample_prompt

    for sample in rounds:
        prompt = sample_prompt(sample, stretch(840))
        assert "[REF" not in prompt.question and prompt.question.count("<box>") == len(sample.meta["references"])

"""Conversations about scenes: answers fit the pictures, thoughts name what they should, seeds decide."""

from collections import Counter

import numpy as np
import pytest

from segzero.data.dialogue_synthesis import KINDS
from segzero.frames import stretch
from segzero.masks import decode
from segzero.tiny.dialogues import conversation, make_dialogues, things_of
from segzero.tiny.evaluate import chance_score
from segzero.tiny.questions import HELD_OUT_SEED
from segzero.tiny.scenes import make_scene


@pytest.fixture(scope="module")
def rounds():
    return make_dialogues(10, HELD_OUT_SEED)


def test_second_rounds_take_turns_by_kind(rounds):
    kinds = Counter(sample.category for sample in rounds if sample.meta["round"] == 2)
    assert kinds == dict.fromkeys(KINDS, 2)


def test_a_conversation_depends_on_seed_and_place_alone(rounds):
    assert make_dialogues(3, HELD_OUT_SEED) == [s for s in rounds if int(s.id.split("-")[3]) < 3]
    assert make_dialogues(1, 5)[0].image != make_dialogues(1, 6)[0].image


def test_rounds_refer_to_earlier_ones_that_found_something(rounds):
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


def test_thoughts_say_what_is_referred_to_and_what_is_found():
    rng = np.random.default_rng(4)
    seen = set()
    for _ in range(60):
        talk = conversation(make_scene(rng), rng)
        if talk is None:
            continue
        shapes = talk.scene.shapes
        for number, asked in enumerate(talk.said[1:], 2):
            think, objects = talk.answer(number)
            assert objects == tuple(talk.things[place].object for place in asked.targets)
            before, _, after = think.partition("; ")
            seen.add(asked.kind)
            for names, places in ((before, talk.said[asked.refers - 1].targets), (after, asked.targets)):
                assert all(shapes[place].name in names for place in places if place < len(shapes))
            assert after.endswith(" no") == (not asked.targets)
    assert seen == set(KINDS)


def test_an_echo_names_what_is_referred_to_besides():
    rng = np.random.default_rng(6)
    echoed = 0
    for _ in range(30):
        talk = conversation(make_scene(rng), rng)
        for number, asked in enumerate(talk.said[1:] if talk else (), 2):
            objects, more = talk.answer(number)[1], talk.answer(number, echo=True)[1]
            referred = {talk.things[place].object.box for place in talk.said[asked.refers - 1].targets}
            boxes = {o.box for o in objects}
            assert {o.box for o in more} == (boxes | referred if boxes else set()) and more[: len(objects)] == objects
            echoed += len(more) > len(objects)
    assert echoed > 10


def test_repeating_the_reference_counts_as_chance(rounds):
    for sample in rounds:
        assert 0 <= chance_score(sample) <= 1
        if sample.category == "choice":
            assert chance_score(sample) >= 1 / len(sample.turns[sample.meta["references"][0] - 1]["boxes"]) - 1e-9


def test_a_frame_of_another_family_reads_them_too(rounds):
    from segzero.dialogue.prompting import sample_prompt

    for sample in rounds:
        prompt = sample_prompt(sample, stretch(840))
        assert "[REF" not in prompt.question and prompt.question.count("<box>") == len(sample.meta["references"])

"""Rounds that a record holds itself, as a dialogue would have had them."""

import pytest

from segzero.answer import Answer, Instance
from segzero.dialogue import Dialogue, Registry
from segzero.dialogue.prompting import add_answer, build_prompt, registry_from_turns
from segzero.dialogue.references import LostReference
from segzero.errors import UserError
from segzero.frames import relative, stretch
from segzero.masks import decode
from segzero.prompts import render_messages

CUP, SPOON = (10, 20, 60, 70), (5, 5, 15, 25)
FRAME = stretch(200)  # of an image of 100x80: twice its width, two and a half times its height


def test_a_registry_is_a_records_history_and_back(make_registry):
    registry = make_registry([CUP, SPOON], [], None)
    again = registry_from_turns(registry.turns, registry.size)
    assert again.turns == registry.turns
    assert [round.state for round in again.rounds] == ["found", "nothing", "unread"]
    assert [region.id for region in again.regions] == [1, 2]
    assert again.regions[1].inside == registry.regions[1].inside == ((10.0, 15.0),)


def test_a_box_without_a_mask_is_its_own():
    [region] = registry_from_turns([{"question": "the cup", "boxes": [[10, 20, 60, 70]]}], (100, 80)).regions
    mask = decode(region.rle)
    assert mask[20:70, 10:60].all() and mask.sum() == 50 * 50 and region.points == ()


@pytest.mark.parametrize(
    "turn",
    [
        {},
        7,
        None,
        {"question": "x", "boxes": 3},
        {"question": "x", "boxes": [[1, 2, 3]]},
        {"question": "x", "boxes": [["a", 0, 1, 1]]},
        {"question": "x", "boxes": [[0, 0, 1, 1]], "points": [[[1]]]},
        {"question": "x", "boxes": [[0, 0, 1, 1]], "points": [[], []]},
        {"question": "x", "boxes": [[0, 0, 1, 1]], "masks": [None, None]},
    ],
)
def test_rounds_that_make_no_sense_are_one_line(turn):
    good = {"question": "the cup", "boxes": []}
    with pytest.raises(UserError, match="its round 2 can't be read") as caught:
        registry_from_turns([good, turn], (100, 80))
    assert "\n" not in str(caught.value)


def test_a_question_is_asked_with_boxes_of_the_frame():
    turns = [{"question": "the cups", "boxes": [[25, 20, 50, 40], [0, 0, 25, 20]], "points": [[[30, 30]], []]}]
    registry = registry_from_turns(turns, (100, 80))
    prompt = build_prompt("what [REF:1] holds", registry, FRAME)
    assert prompt.question == "what <box>[50, 50, 100, 100], [0, 0, 50, 50]</box> holds"
    assert prompt.notes.splitlines() == [
        "Earlier in this dialogue:",
        'round 1, "the cups": <box>[50, 50, 100, 100]</box> <point>[60, 75]</point>, <box>[0, 0, 50, 50]</box>',
    ]
    assert build_prompt("the plate", registry, FRAME).notes == ""


@pytest.mark.parametrize("question", ["left of [REF:0]", "left of [REF:2]", "left of [REF:3]", "the second one"])
def test_what_no_round_has_cannot_be_referred_to(question):
    turns = [{"question": "a"}, {"question": "b"}] if "REF" in question else [{"question": "a", "boxes": [CUP]}]
    with pytest.raises(LostReference):
        build_prompt(question, registry_from_turns(turns, (100, 80)), FRAME)


def test_only_references_to_nothing_make_the_answer_empty(make_registry):
    registry = make_registry([CUP], [])

    def is_empty(question):
        return build_prompt(question, registry, FRAME).answer_is_empty

    assert is_empty("left of [REF:2]") and is_empty("left of it")
    assert not is_empty("between [REF:1] and [REF:2]")
    assert not is_empty("the plate")


def test_an_answer_becomes_a_round_in_pixels():
    said = Answer(instances=(Instance((50, 50, 100, 100), ((60, 75),)), Instance((150, 0, 900, 50))))
    registry = add_answer(Registry((100, 80)), "the cups", said, FRAME)
    registry = add_answer(registry, "the plate", Answer(), FRAME)
    registry = add_answer(registry, "the fork", Answer(error="not_json"), FRAME)
    assert [round.state for round in registry.rounds] == ["found", "nothing", "unread"]
    assert [region.box for region in registry.regions] == [(25, 20, 50, 40), (75, 0, 100, 20)]  # clipped to the image
    assert registry.regions[0].inside == ((30, 30),)


def test_it_is_the_prompt_of_a_dialogue(dialogue, recorded, held_out):
    """What a dialogue asks in its second round is what a record with that dialogue's rounds is asked."""
    first, second = held_out[0].question, "the shape left of [REF:1]"
    assert isinstance(dialogue, Dialogue)
    dialogue.ask(first)
    turns = dialogue.registry.turns
    dialogue.ask(second)
    prompt = build_prompt(second, registry_from_turns(turns, dialogue.image.size), recorded.policy.frame)
    assert recorded.policy.requests[-1].messages == render_messages(
        prompt.question, recorded.policy.prompt, prompt.notes
    )


def test_coordinates_are_the_frames():
    registry = registry_from_turns([{"question": "the cup", "boxes": [[25, 20, 50, 40]]}], (100, 80))
    assert build_prompt("[REF:1]", registry, relative(1000)).question == "<box>[250, 250, 500, 500]</box>"

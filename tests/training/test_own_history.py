"""Prompts of later rounds after true answers or the policy's own, and the choice between them."""

import asyncio

import pytest

from segzero.answer import Answer, Instance
from segzero.dialogue.prompting import sample_prompt
from segzero.errors import UserError
from segzero.frames import stretch
from segzero.sample import Sample
from segzero.training.own_history import prompt_after_own_answers, takes_own_history

FRAME = stretch(200)  # twice the pixels of the image
CUP = {"question": "the cup", "boxes": [[10, 20, 30, 40]], "points": [[[20, 30]]]}
SPOONS = {"question": "the spoons beside [REF:1]", "boxes": [[50, 0, 60, 90], [70, 0, 80, 90]]}


def sample_of(question, *turns):
    return Sample("s", "", question, 100, 100, turns=turns)


def boxes(question, *turns):
    asked = sample_prompt(sample_of(question, *turns), FRAME)
    return set(asked.boxes.referred), set(asked.boxes.others)


def test_the_prompt_of_a_question_without_reference_shows_no_earlier_round():
    asked = sample_prompt(sample_of("the largest fork", CUP, SPOONS), FRAME)
    assert (asked.question, asked.notes, asked.answer_is_empty) == ("the largest fork", "", False)
    assert asked.boxes.referred == asked.boxes.others == frozenset()
    assert asked.messages("multi") == sample_prompt(sample_of("the largest fork"), FRAME).messages("multi")


def test_boxes_of_the_prompt_and_those_that_the_question_refers_to():
    cup, spoon, other = (20, 40, 60, 80), (100, 0, 120, 180), (140, 0, 160, 180)
    assert boxes("what lies in [REF:1]", CUP, SPOONS) == ({cup}, {spoon, other})
    assert boxes("the lid of the first one", CUP, SPOONS) == ({spoon}, {cup, other})
    assert boxes("the table below [REF:1] and [REF:2]", CUP, SPOONS) == ({cup, spoon, other}, set())
    assert boxes("the table below [REF:1], instance 1 and [1, 2, 3, 4]", CUP) == ({cup}, {(1, 2, 3, 4)})


def test_the_answer_is_empty_if_all_references_are():
    nothing = {"question": "a fork", "boxes": []}
    assert sample_prompt(sample_of("its handle", nothing), FRAME).answer_is_empty
    assert not sample_prompt(sample_of("the table below [REF:1] and [REF:2]", nothing, CUP), FRAME).answer_is_empty


def own(sample, *answers):
    """The prompt after these own answers, and the prompts of the rounds before it."""
    heard, answers = [], iter(answers)

    async def write(asked):
        heard.append((asked.question, asked.notes))
        return next(answers)

    return asyncio.run(prompt_after_own_answers(sample, FRAME, write)), heard


def test_earlier_rounds_are_answered_one_after_the_other():
    output = [Answer(instances=(Instance((2.0, 4.0, 6.0, 8.0), ((3.0, 5.0),)),)), Answer(instances=())]
    asked, heard = own(sample_of("what lies in [REF:1]", CUP, SPOONS), *output)
    cup = 'Earlier in this dialogue:\nround 1, "the cup": <box>[2, 4, 6, 8]</box> <point>[3, 5]</point>'
    assert heard == [("the cup", ""), ("the spoons beside <box>[2, 4, 6, 8]</box>", cup)]
    assert asked.question == "what lies in <box>[2, 4, 6, 8]</box>"
    assert asked.notes == f'{cup}\nround 2, "the spoons beside [REF:1]": nothing there'
    assert asked.boxes.referred == {(2, 4, 6, 8)}


def test_an_unreadable_answer_is_shown_as_no_answer():
    output = [Answer(error="no_answer"), Answer(instances=(Instance((2.0, 4.0, 6.0, 8.0)),))]
    fork = {"question": "the fork", "boxes": []}
    asked, _ = own(sample_of("what lies in [REF:2]", CUP, fork), *output)
    assert asked.notes.splitlines()[1:] == [
        'round 1, "the cup": no answer',
        'round 2, "the fork": <box>[2, 4, 6, 8]</box>',
    ]


def test_a_round_that_refers_to_such_an_answer_has_none_either():
    asked, heard = own(sample_of("the forks beside [REF:2]", CUP, SPOONS), Answer(error="no_answer"))
    assert asked is None
    assert heard == [("the cup", "")]


def test_the_policy_is_not_called_for_an_answer_that_can_only_be_empty():
    asked, heard = own(sample_of("the forks beside [REF:2]", CUP, SPOONS), Answer())
    assert asked is None
    assert heard == [("the cup", "")]


@pytest.mark.parametrize("message", [[None], [Answer(instances=(Instance((2.0, 4.0, 6.0, 8.0)),)), None]])
def test_a_round_that_cannot_be_generated_ends_it(message):
    asked, heard = own(sample_of("what lies in [REF:1]", CUP, SPOONS), *message)
    assert asked is None
    assert len(heard) == len(message)


def test_a_reference_beyond_the_number_of_objects_ends_it():
    """The true round has two spoons, the policy found one."""
    output = [Answer(instances=(Instance((2.0, 4.0, 6.0, 8.0)),))] * 2
    assert sample_prompt(sample_of("what lies on the second one", CUP, SPOONS), FRAME).notes
    assert own(sample_of("what lies on the second one", CUP, SPOONS), *output)[0] is None


def test_the_true_history_must_be_sound():
    with pytest.raises(UserError, match="there is no round 3"):
        sample_prompt(sample_of("[REF:3]", CUP, SPOONS), FRAME)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_share_of_samples_and_steps_takes_own_history(share):
    chosen = [[takes_own_history(f"sample-{i}", step, share) for step in range(60)] for i in range(60)]
    assert sum(map(sum, chosen)) == pytest.approx(3600 * share, abs=100)
    if 0 < share < 1:
        assert all(0 < sum(steps) < 60 for steps in chosen)  # every sample at some steps
        assert all(0 < sum(samples) < 60 for samples in zip(*chosen, strict=True))  # and some at every step


def test_the_choice_is_the_same_in_every_process():
    assert [takes_own_history("sample-0", step, 0.5) for step in range(6)] == [True, True, True, False, False, True]


def test_a_larger_share_takes_what_a_smaller_one_does():
    names = [f"sample-{i}" for i in range(500)]
    few, many = ({name for name in names if takes_own_history(name, 3, share)} for share in (0.2, 0.6))
    assert few < many

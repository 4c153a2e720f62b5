"""Citing what the question refers to: worked by hand, and whatever text comes."""

import time

import pytest

from rewards import Case, PromptBoxes
from rewards.citations import boxes_in, cites
from segzero.answer import Answer, Instance
from segzero.frames import relative, stretch

CUP, LID = (84, 168, 504, 672), (10, 20, 30, 40)
SPOON = (600, 20, 700, 90)  # told, but not referred to
FOUND = (100, 120, 220, 240)  # the answer's own
ANSWER = '<answer>[{"bbox_2d": [100, 120, 220, 240], "point_2d": [150, 150]}]</answer>'


def worth(think, referred=(CUP,), others=(SPOON,), answer=ANSWER, **options):
    prompt_boxes = PromptBoxes(frozenset(referred), frozenset(others))
    return cites(Case.of_objects(f"<think>{think}</think>{answer}", [], prompt_boxes=prompt_boxes, **options))


@pytest.mark.parametrize(
    ("think", "value"),
    [
        ("Left of [84, 168, 504, 672] is a spoon.", 1),
        ("[84,168,504,672]", 1),
        ("[ 84,\n168 , 504.0, 672 ]", 1),
        ("<box>[84, 168, 504, 672]</box> again [84, 168, 504, 672]", 1),
        ("[[84, 168, 504, 672], [100, 120, 220, 240]]", 1),  # beside it the answer's own
        ("[84, 168, 504, 672], not [600, 20, 700, 90]", 1),  # beside it what the history told
        ("[84, 168, 504, 672] and [1, 2, 3, 4]", 1 / 2),  # and one invented
        ("[84, 168, 504, 672], [1, 2, 3, 4], [5, 6, 7, 8]", 1 / 2),
        ("[84, 168, 504, 671]", 0),
        ("[-84, 168, 504, 672]", 0),
        ("[84, 168, 504]", 0),
        ("[84, 168, 504, 672, 1]", 0),
        ("84, 168, 504, 672", 0),
        ("(84, 168, 504, 672)", 0),
        ("the cup", 0),
        ("", 0),
    ],
)
def test_one_reference(think, value):
    assert worth(think) == value


@pytest.mark.parametrize(
    ("think", "value"),
    [
        ("[84, 168, 504, 672] [10, 20, 30, 40]", 1),
        ("[10, 20, 30, 40]", 1 / 2),
        ("[10, 20, 30, 40] [1, 2, 3, 4]", 1 / 4),
        ("[1, 2, 3, 4]", 0),
    ],
)
def test_several_references_share(think, value):
    assert worth(think, referred=(CUP, LID)) == value


@pytest.mark.parametrize("think", ["", "[84, 168, 504, 672]", "[1, 2, 3, 4] and the cup"])
def test_without_references_it_is_constant(think):
    assert worth(think, referred=()) == 1
    assert cites(Case.of_objects(f"<think>{think}</think>{ANSWER}", [])) == 1


def test_the_answer_itself_is_no_think_chain():
    assert worth("the cup", referred=(FOUND,)) == 0


def test_what_can_not_be_read_may_still_cite():
    assert worth("[84, 168, 504, 672]", answer="<answer>{</answer>") == 1
    assert worth("[84, 168, 504, 672] and [100, 120, 220, 240]", answer="<answer>{</answer>") == 1 / 2


@pytest.mark.parametrize("frame", [stretch(420), relative(1000)], ids=str)
def test_numbers_are_the_policys_own_in_any_frame(frame):
    """The answer is compared with the truth in the 840 frame, what is cited as it was written."""
    assert worth("[84, 168, 504, 672] and [100, 120, 220, 240]", size=(640, 480), frame=frame) == 1
    assert worth("[168, 336, 1008, 1344]", size=(640, 480), frame=frame) == 0


def test_an_answer_that_is_parsed_already_is_not_parsed_again():
    parsed = Answer("[84, 168, 504, 672] [1, 2, 3, 4]", (Instance((1.0, 2.0, 3.0, 4.0)),))
    boxes = PromptBoxes(frozenset({CUP}))
    assert cites(Case.of_objects("nonsense", [], frame=stretch(420), answer=parsed, prompt_boxes=boxes)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "[", "[ ", "[1", "[1,", "[1.", "[-", "[1,2,3,", "[1,2,3,4", "1,2,3,4]", "[[1,2,3,4],", "[1 , 2 , 3 , ",
        "[9" + "9" * 50 + ",", "[\u0663,1,2,3]", "[1e5,2,3,4]", "[ \n\t",
    ],
)  # fmt: skip
def test_hostile_think_chains_take_linear_time(text):
    begin = time.process_time()
    assert worth(text * (400_000 // len(text))) == 0
    assert time.process_time() - begin < 2  # a quadratic search would take hours


@pytest.mark.parametrize("text", ["[" + " " * 500_000 + "1,2,3,4]", "[" + "9" * 500_000 + ",2,3,4]"])
def test_huge_boxes_are_boxes(text):
    assert len(boxes_in(text)) == 1
    assert worth("[84, 168, 504, 672]" + text) == 1 / 2

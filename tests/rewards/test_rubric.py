"""Rubrics refuse what can't be meant, and add up what is."""

import pytest

from rewards import Reward, Rubric, Term, read_case
from rewards.text_terms import non_repetition, thinking_format
from segzero.errors import UserError

CASE = read_case("<think>a mug</think><answer>[]</answer>", [])


def test_terms_are_weighted_and_named():
    rubric = Rubric((
        Term("thinking", thinking_format, weight=2.0),
        Term("words", lambda case: len(case.response.split()), weight=-0.5, high=10),
    ))  # fmt: skip
    assert rubric.score(CASE) == Reward(1.0, {"thinking": 1.0, "words": 2.0})
    assert (rubric.lowest, rubric.highest) == (-5.0, 2.0)


def test_a_name_twice_is_refused():
    with pytest.raises(UserError, match="two terms are called 'thinking'"):
        Rubric((Term("thinking", thinking_format), Term("thinking", non_repetition)))


@pytest.mark.parametrize("weights", [(), (0.0,), (-1.0,), (1.0, -1.0), (float("nan"),)])
def test_weights_must_add_up(weights):
    with pytest.raises(UserError, match="more than 0"):
        Rubric(tuple(Term(str(i), thinking_format, weight) for i, weight in enumerate(weights)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.1, -0.1])
def test_a_value_out_of_its_bounds_is_our_fault(value):
    with pytest.raises(AssertionError, match="odd is"):
        Rubric((Term("odd", lambda case: value),)).score(CASE)

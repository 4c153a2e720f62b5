"""The terms that look at the text alone, by hand."""

import pytest

from rewards import read_case
from rewards.text_terms import fresh_thinking, length_bounds, non_repetition, thinking_format


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think>a</think><answer>b</answer>", 1),
        ("<think></think><answer></answer>", 1),
        ("<think>a\nb</think> \n\t<answer>\nb\n</answer>", 1),
        ("<think>a</think>b</think><answer>c</answer>", 1),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 1),
        ("<think>a</think>so<answer>b</answer>", 0),
        (" <think>a</think><answer>b</answer>", 0),
        ("<think>a</think><answer>b</answer>\n", 0),
        ("<think>a<answer>b</answer>", 0),
        ("<think>a</think><answer>b", 0),
        ("<think></answer>", 0),
        ("<think></think></answer>", 0),
        ("", 0),
    ],
)
def test_thinking_format(text, value):
    assert thinking_format(read_case(text, [])) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("", 1), ("a. b. c.", 1), ("a. a. b", 1), ("a. a. a", 0), ("a. b. a. b", 0), ("a.. . .", 1), ("a. A. a", 1)],
)
def test_non_repetition(text, value):
    assert non_repetition(read_case(text, [])) == value


@pytest.mark.parametrize(
    ("think", "value"), [("", 1), ("Red. Blue! Left?", 1), ("Red. red. Blue.", 2 / 3), ("a\na\na\na", 1 / 4)]
)
def test_fresh_thinking(think, value):
    text = f"<think>{think}</think><answer>[1.5, 2.5, 3.5, 4.5, 5.5, 6.5]</answer>"
    assert fresh_thinking(read_case(text, [])) == value


@pytest.mark.parametrize(("words", "value"), [(0, 0), (1, 0.25), (4, 1), (10, 1), (15, 0.5), (20, 0), (1000, 0)])
def test_length_bounds(words, value):
    case = read_case(f"<think>{'mug ' * words}</think><answer>[]</answer>", [])
    assert length_bounds(4, 10)(case) == value

"""Words for a language model, and the code in its replies."""

import pytest

from rewards.search.language import describe
from rewards.search.prompts import (
    JudgedAnswer,
    cut_code,
    describe_terms,
    first_prompt,
    mend_prompt,
    reflect_prompt,
    system_prompt,
)
from rewards.search.term_statistics import term_statistics

CODE = 'SCALE = 2.0\n\n\ndef reward(answer, truth):\n    """Nothing."""\n    return {"a": SCALE}\n'
FENCE = "```"


@pytest.mark.parametrize(
    "reply",
    [
        CODE,
        f"{FENCE}python\n{CODE}{FENCE}",
        f"{FENCE}\n{CODE}\n\n{FENCE}\nI hope it helps.",
        f"First:\n{FENCE}python\nprint(1)\n{FENCE}\nThen\n{FENCE}py\n{CODE}{FENCE}",
        f"Not this:\n{FENCE}python\ndef reward(a):\n    pass\n{FENCE}\nBut:\n  {FENCE}python title=x\n{CODE}{FENCE}",
        f"{FENCE}python\n{CODE}",  # cut off before the fence ends
        f"Here is the module.\n\n{CODE}\nIt pays SCALE for everything; that's all.",
        CODE.replace("\n", "\r\n"),
    ],
)
def test_code_is_found_in_a_reply(reply):
    assert cut_code(reply) == CODE


@pytest.mark.parametrize("reply", ["", "I would rather not.", "def ", f"{FENCE}python", "#" * 200_000, "(" * 5000])
def test_a_reply_without_code_is_left_to_the_parser(reply):
    assert "def reward" not in cut_code(reply) and len(cut_code(reply)) <= 100_001


def test_a_model_never_sees_how_trainings_are_judged():
    statistics = term_statistics([[{"a": 1.0, "still": 1.0}, {"a": 0.0, "still": 1.0}]], [[0.0, 0.9]])
    answer = JudgedAnswer("s", "the mug", "<think>x</think><answer>[]</answer>", "[]", 0.25, {"a": 1.0, "still": 1.0})
    words = [
        system_prompt(describe()),
        first_prompt("Find mugs.", CODE, statistics),
        reflect_prompt("Find mugs.", CODE, statistics, [answer], [answer], ["line 3: no import"]),
        mend_prompt(CODE, "line 3: no import"),
    ]
    for word in ("giou", "n-acc", "n_acc", "held-out", "validation"):
        assert all(word not in text.lower() for text in words)
    assert "matched(answer.instances, truth)" in words[0]
    assert "> Find mugs." in words[1] and "never moves" in words[1]
    assert "-1.00" in words[2] and "- line 3: no import" in words[2]
    assert "IoU of its masks 0.25; reward 2.00: a 1.00, still 1.00" in words[2]
    assert "What went wrong: line 3: no import" in words[3] and CODE.strip() in words[3]


def test_a_base_that_was_not_tried_has_no_table():
    assert describe_terms([]) == "It has not been tried on answers."

"""A candidate's file by its path: `rewards.score`, `rewards.find_reward`, and a guard around it."""

import pytest

from rewards import CandidateReward, CustomReward, Guard, Reward, Rubric, find_reward, read_case, score
from rewards.search.language import EXAMPLE
from segzero.errors import UserError

TRUTH = '[{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}]'
RIGHT = f"<think>a mug</think><answer>{TRUTH}</answer>"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "reward.py"
    path.write_text(EXAMPLE)
    return str(path)


def test_a_name_is_a_preset_a_function_or_a_file(file):
    assert isinstance(find_reward("mask"), Rubric)
    assert isinstance(find_reward("rewards.text_terms.length_bounds"), CustomReward)
    found = find_reward(file)
    assert isinstance(found, CandidateReward) and not found.needs_masks and found.path == file
    with pytest.raises(UserError, match="unknown reward preset 'reward'"):
        find_reward("reward")


def test_a_file_scores(file):
    assert score(file, RIGHT, TRUTH) == Reward(5.0, {"readable": 1.0, "boxes": 3.0, "count": 1.0})
    half = score(file, RIGHT, TRUTH, size=(420, 420))
    assert half.terms["boxes"] < 1.0  # the truth is twice as large in the 840 frame


def test_failures_count_as_those_of_a_users_function(file, tmp_path):
    (tmp_path / "reward.py").write_text("def reward(answer, truth):\n    return {'a': truth[1].area}\n")
    reward = find_reward(file)
    with pytest.raises(UserError, match=r"reward\.py', line 2: IndexError: tuple index out of range$"):
        reward.score(read_case(RIGHT, TRUTH))
    guard = Guard(reward)
    assert guard.score(read_case(RIGHT, TRUTH), "cat-1") is guard.score(read_case(RIGHT, TRUTH), "cat-2") is None
    with pytest.raises(UserError, match=r"line 2: IndexError: .*3 failures, at samples cat-1, cat-2, cat-3"):
        guard.score(read_case(RIGHT, TRUTH), "cat-3")

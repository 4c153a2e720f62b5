"""A user's own reward is checked, and its failures are never worth 0."""

import logging
import math
import sys

import pytest

from rewards import Guard, Reward, load_reward, read_case
from segzero.errors import UserError

CASE = read_case('<answer>[{"bbox_2d": [0,0,10,10], "point_2d": [5,5]}]</answer>', '[{"bbox_2d": [0,0,10,20]}]')

MODULE = """
import numpy as np

def number(answer, truth):
    return len(answer.instances) / len(truth)

def terms(answer, truth):
    return {"height": answer.instances[0].box[3], "true_height": np.float32(truth[0].box[3])}

def nan(answer, truth):
    return {"fine": 1.0, "bad": float("nan")}


def huge(answer, truth):
    return {"fine": 1.0, "bad": -1e38}

def text(answer, truth):
    return "7"

def empty(answer, truth):
    return {}

def fails(answer, truth):
    return 1 / 0

def one_argument(answer):
    return 1.0

not_a_function = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "users_rewards.py").write_text(MODULE)
    (tmp_path / "broken_rewards.py").write_text("import a_module_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    yield "users_rewards"
    sys.modules.pop("users_rewards", None)


def test_a_number_or_named_numbers(module):
    assert load_reward(f"{module}.number").score(CASE) == Reward(1.0, {"reward": 1.0})
    assert load_reward(f"{module}.terms").score(CASE) == Reward(30.0, {"height": 10.0, "true_height": 20.0})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "returned nan for 'bad'; every value must be finite"),
        ("huge", "returned -1e\\+38 for 'bad'; every value must be finite, and no larger than 1e\\+06"),
        ("text", "returned 'reward': '7'; return a number or named numbers"),
        ("empty", "returned an empty dict"),
    ],
)
def test_what_it_returns_is_checked(module, name, message):
    with pytest.raises(UserError, match=message):
        load_reward(f"{module}.{name}").score(CASE)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_reward", "write the module too"),
        ("no_such_module.f", "no module 'no_such_module'; is its folder on PYTHONPATH"),
        ("users_rewards.nothing", "users_rewards has no function 'nothing'"),
        ("users_rewards.not_a_function", "has no function 'not_a_function'"),
        ("users_rewards.one_argument", r"must take two arguments, \(answer, truth\)"),
    ],
)
def test_a_path_that_names_no_reward(module, path, message):
    with pytest.raises(UserError, match=message):
        load_reward(path)


def test_what_the_module_misses_is_not_hidden(module):
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        load_reward("broken_rewards.f")


@pytest.mark.parametrize("name", ["fails", "nan", "text"])
def test_the_third_failure_ends_the_run(module, name, caplog):
    guard = Guard(load_reward(f"{module}.{name}"))
    with caplog.at_level(logging.WARNING):
        assert guard.score(CASE, "cat-1") is None
        assert guard.score(CASE, "cat-2") is None
    assert "cat-1" in caplog.text and "cat-2" in caplog.text and "Traceback" in caplog.text
    with pytest.raises(UserError, match="3 failures, at samples cat-1, cat-2, cat-3") as error:
        guard.score(CASE, "cat-3")
    assert f"{module}.{name}" in str(error.value) and "\n" not in str(error.value)
    assert error.value.__cause__ is not None


def test_a_reward_that_works_passes_the_guard(module):
    guard = Guard(load_reward(f"{module}.number"))
    assert all(math.isclose(guard.score(CASE, "s").total, 1.0) for _ in range(5))

"""Rewards of a user's own: one function `(answer, truth) -> float | dict`, named by its dotted path, or a candidate.

>>> load_reward("my_module.my_reward")
Traceback (most recent call last):
segzero.errors.UserError: reward 'my_module.my_reward': no module 'my_module'; is its folder on PYTHONPATH?
"""

import importlib
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real

from rewards.case import Case
from rewards.rubric import Reward
from rewards.search.reward import CandidateReward, load_candidate
from segzero.answer import Answer, Instance
from segzero.errors import UserError

LARGEST = 1e6  # the largest value: training adds them up in float32

log = logging.getLogger(__name__)

TruthObjects = tuple[Instance, ...]  # in the 840 frame


@dataclass(frozen=True)
class CustomReward:
    """A reward function with its dotted path. Its return values are checked; its exceptions pass through."""

    path: str
    function: Callable[[Answer, TruthObjects], float | Mapping[str, float]]
    needs_masks: bool = False

    def score(self, case: Case) -> Reward:
        """Score a case: the function's number becomes the term `reward`, its dict the terms of a sum."""
        result = self.function(case.answer, case.truth)
        terms = result if isinstance(result, Mapping) else {"reward": result}
        if not terms:
            raise UserError(f"reward {self.path!r} returned an empty dict; return a number or named numbers")
        for name, value in terms.items():
            if not isinstance(name, str) or not isinstance(value, Real):
                raise UserError(f"reward {self.path!r} returned {name!r}: {value!r}; return a number or named numbers")
            if not abs(value) <= LARGEST:
                raise UserError(
                    f"reward {self.path!r} returned {value} for {name!r}; "
                    f"every value must be finite, and no larger than {LARGEST:g}"
                )
        values = {name: float(value) for name, value in terms.items()}
        return Reward(sum(values.values()), values)


def load_reward(path: str) -> CustomReward | CandidateReward:
    """Load the function that a dotted path `package.module.function` names, or the candidate in a file `NAME.py`.

    A function is imported into this process; a candidate is parsed, and runs in a sandbox.
    """
    if path.endswith(".py"):
        return load_candidate(path)
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise UserError(f"reward {path!r}: write the module too, as in 'my_module.my_reward'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not module_name.startswith(error.name or "?"):
            raise  # the module is there; something that it imports isn't
        raise UserError(f"reward {path!r}: no module {error.name!r}; is its folder on PYTHONPATH?") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"reward {path!r}: {module_name} has no function {name!r}")
    try:
        inspect.signature(function).bind("answer", "truth")
    except TypeError:
        raise UserError(f"reward {path!r}: it must take two arguments, (answer, truth)") from None
    return CustomReward(path, function)


class Guard:
    """Scores with a user's reward and ends the run at its third failure; a failure never counts as 0.

    Earlier failures are logged with their traceback, and `score` returns None: leave that response out.
    """

    def __init__(self, reward: CustomReward | CandidateReward, limit: int = 3) -> None:
        self.reward = reward
        self.limit = limit
        self.failed: list[str] = []  # ids of the samples whose score failed

    def score(self, case: Case, sample_id: str) -> Reward | None:
        """Score a case; None if the user's function failed."""
        try:
            return self.reward.score(case)
        except Exception as error:
            self.failed.append(sample_id)
            reason = str(error) if isinstance(error, UserError) else f"reward {self.reward.path!r} raised {error!r}"
            if len(self.failed) < self.limit:
                log.warning("%s (sample %s; failure %d)", reason, sample_id, len(self.failed), exc_info=True)
                return None
            raise UserError(f"{reason}; {len(self.failed)} failures, at samples {', '.join(self.failed)}") from error

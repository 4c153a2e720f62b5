"""A user's own reward: one function `(answer, truth) -> float | dict`, named by its dotted path.

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
from segzero.answer import Answer, Instance
from segzero.errors import UserError

LARGEST = 1e6  # of a value: training adds them up in float32

log = logging.getLogger(__name__)

Truth = tuple[Instance, ...]


@dataclass(frozen=True)
class CustomReward:
    """A function with its name. What it returns is checked, what it raises passes through."""

    path: str
    function: Callable[[Answer, Truth], float | Mapping[str, float]]

    def score(self, case: Case) -> Reward:
        """The function's number as the term `reward`, or its dict of terms and their sum."""
        result = self.function(case.answer, case.truth)
        terms = result if isinstance(result, Mapping) else {"reward": result}
        if not terms:
            raise UserError(f"reward {self.path!r} returned an empty dict; return a number or named numbers")
        for name, value in terms.items():
            if not isinstance(name, str) or not isinstance(value, Real):
                raise UserError(f"reward {self.path!r} returned {name!r}: {value!r}; return a number or named numbers")
            if not abs(value) <= LARGEST:
                said = f"reward {self.path!r} returned {value} for {name!r}"
                raise UserError(f"{said}; every value must be finite, and no larger than {LARGEST:g}")
        values = {name: float(value) for name, value in terms.items()}
        return Reward(sum(values.values()), values)


def load_reward(path: str) -> CustomReward:
    """The function a dotted path names, `package.module.function`."""
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
    """Scores with a user's reward and ends the run at its third failure; a failure is never worth 0.

    The earlier ones are logged with their traceback, and `score` returns None: leave that response out.
    """

    def __init__(self, reward: CustomReward, limit: int = 3) -> None:
        self.reward = reward
        self.limit = limit
        self.failed: list[str] = []  # ids of the samples

    def score(self, case: Case, sample_id: str) -> Reward | None:
        try:
            return self.reward.score(case)
        except Exception as error:
            self.failed.append(sample_id)
            said = str(error) if isinstance(error, UserError) else f"reward {self.reward.path!r} raised {error!r}"
            if len(self.failed) < self.limit:
                log.warning("%s (sample %s; failure %d)", said, sample_id, len(self.failed), exc_info=True)
                return None
            raise UserError(f"{said}; {len(self.failed)} failures, at samples {', '.join(self.failed)}") from error

"""Settings of a search for a reward."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segzero.errors import UserError
from segzero.io import read_json, write_json

NAME = "search.json"


@dataclass(frozen=True)
class SearchSettings:
    """Everything that decides what a search does; one that goes on must have the same."""

    task: str  # what a good answer is, in words
    base: str  # a preset's name, or a candidate's file
    policy: str
    segmenter: str
    data: str = "scenes"  # as it was named
    rollouts: str = ""  # a run's file of answers; empty: answers are sampled afresh
    llm: str = ""  # the model's name and the server's address; empty: offline
    candidates: int = 16  # of an iteration
    iterations: int = 4
    questions: int = 64  # whose answers are recorded
    answers: int = 8  # to each of them
    finalists: int = 4  # candidates that are trained with
    trial_steps: int = 20  # of the first round of trials; the second goes on to twice as many
    seeds: int = 3  # trainings of the winner, and of the base
    held_out: int = 400  # questions by which trials are chosen, and others that compare the winner with the base
    batch: int = 16  # questions of a training step
    seed: int = 0
    overrides: tuple[str, ...] = ()  # further settings of every training, key=value

    def __post_init__(self) -> None:
        for name in ("candidates", "iterations", "questions", "finalists", "trial_steps", "held_out", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)} must be at least 1")
        if self.answers < 2:
            raise UserError(f"answers {self.answers}: rewards are compared within a question; take 2 or more")
        if self.seeds < 0:
            raise UserError(f"seeds {self.seeds} must be 0 (no comparison with the base) or more")

    @property
    def final_steps(self) -> int:
        """Steps of the trainings that compare the winner with the base."""
        return 2 * self.trial_steps


def begin(out: Path, settings: SearchSettings) -> None:
    """Write search.json, or refuse a folder that holds a search with other settings."""
    now: dict[str, Any] = {**asdict(settings), "overrides": list(settings.overrides)}
    file = out / NAME
    if not file.exists():
        write_json(file, now, indent=1)
        return
    try:
        before = read_json(file)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}; search into another --out") from error
    for name, value in now.items():
        if before.get(name) != value:
            raise UserError(
                f"{out} holds a search with other settings: its {name} is {before.get(name)}, now it is {value}; "
                f"choose another --out"
            )

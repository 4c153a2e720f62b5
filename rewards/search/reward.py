"""A candidate's file as a reward for training and for `rewards.score`; it always runs in a sandbox."""

from dataclasses import dataclass, field
from pathlib import Path

from rewards.case import Case
from rewards.rubric import Reward
from rewards.search.candidate import Candidate, read_candidate
from rewards.search.sandbox import CandidateFailure, Sandbox
from segzero.errors import UserError


@dataclass(frozen=True)
class CandidateReward:
    """A candidate with the path of its file, and the sandbox that runs it. `load_candidate` makes it."""

    path: str
    candidate: Candidate
    sandbox: Sandbox = field(repr=False, compare=False)

    @property
    def needs_masks(self) -> bool:
        """True if it compares the segmenter's masks."""
        return self.candidate.needs_masks

    def score(self, case: Case) -> Reward:
        """Score a case: the sum of the candidate's terms. A failure is a UserError."""
        [terms] = self.sandbox.score([case])
        if isinstance(terms, CandidateFailure):
            raise UserError(f"reward {self.path!r}, {terms}")
        return Reward(sum(terms.values()), terms)


def load_candidate(path: str | Path) -> CandidateReward:
    """Load a candidate from its file; the sandbox starts with the first case."""
    candidate = read_candidate(path)
    return CandidateReward(str(path), candidate, Sandbox(candidate))

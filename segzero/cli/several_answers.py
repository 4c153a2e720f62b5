"""Options of commands that can spend several answers on a question."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from segzero.errors import UserError

if TYPE_CHECKING:
    from segzero.pipeline import SegZeroPipeline
    from segzero.several_answers import SeveralAnswersPipeline
    from segzero.votes import VoteSettings


@dataclass(frozen=True)
class SeveralAnswersOptions:
    """Votes, and own attempts in the prompt."""

    votes: Annotated[
        int, typer.Option(help="Sampled answers that vote about each question, 32 as published; 0: one answer.", min=0)
    ] = 0
    own_attempts: Annotated[
        int,
        typer.Option(help="Sampled answers that the policy reads before it answers, 8 as published.", min=0),
    ] = 0

    @property
    def wanted(self) -> bool:
        """True if a question gets more than one answer."""
        return bool(self.votes or self.own_attempts)

    @property
    def rows(self) -> tuple[tuple[str, object, object], ...]:
        """Name, value and default of each option, as `ModelOptions.check_alone` takes them."""
        return ("votes", self.votes, 0), ("own_attempts", self.own_attempts, 0)

    def check(self, looks: int = 0) -> None:
        """Refuse a vote of a single answer, and answers whose masks the policy then looks at."""
        if self.wanted and looks:
            raise UserError(
                "--votes and --own-attempts make one answer of several, --refine corrects that of one; choose"
            )
        if self.votes == 1:
            raise UserError("--votes 1: a single answer can't vote; take 2 or more, or leave --votes out")

    def vote_settings(self, temperature: float = 0.0) -> "VoteSettings | None":
        """Convert to the settings of the vote; a `temperature` of 0 leaves the usual one."""
        from segzero.votes import VoteSettings

        if not self.votes:
            return None
        return VoteSettings(self.votes, temperature) if temperature else VoteSettings(self.votes)

    def apply(self, pipeline: "SegZeroPipeline", temperature: float) -> "SegZeroPipeline | SeveralAnswersPipeline":
        """Make the pipeline that answers as the options say; without any, it is the same one."""
        from segzero.several_answers import SeveralAnswersPipeline

        if not self.wanted:
            return pipeline
        return SeveralAnswersPipeline(pipeline, self.vote_settings(temperature), self.own_attempts)

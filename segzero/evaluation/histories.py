"""Rounds of dialogues, asked with the true rounds before them or with the policy's own answers to those.

>>> with_true_history(pipeline, rounds)[1]              # doctest: +SKIP
Segmentation(question='what is left of [REF:1]', ...)
>>> with_predicted_history(pipeline, rounds)[1]         # doctest: +SKIP
Failure(code='lost_reference', problem="'[REF:1]' means round 1, whose answer could not be read ...")

The two differ in what a round is told; prompt, parser and segmenter are the same. A question that refers only to rounds
that found nothing is answered "nothing" without asking, as in a dialogue.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

from segzero.answer import Answer
from segzero.data.sample import Sample
from segzero.dialogue.history import answered, is_nothing, recall
from segzero.dialogue.memory import Prepared
from segzero.dialogue.references import LostReference
from segzero.dialogue.registry import Registry
from segzero.errors import TimedOut, Unavailable, UserError
from segzero.frames import Frame
from segzero.pipeline import Said, SegZeroPipeline
from segzero.result import Segmentation

TRUE, PREDICTED = "true", "predicted"
HISTORIES = (TRUE, PREDICTED)
NOTHING = Answer()  # could be read, and nothing is there
UNREAD = Answer(error="no_answer")  # what later rounds are told of a round that failed

Reply = TypeVar("Reply", Segmentation, Said)
Ask = Callable[[list[Image.Image], list[str], list[str]], list[Reply]]  # images, questions, notes


@dataclass(frozen=True, eq=False)
class Round:
    """A sample, its image, and the true rounds before it. Rounds of one dialogue hold the same image object."""

    sample: Sample
    image: Image.Image
    before: Registry

    @property
    def questions(self) -> tuple[str, ...]:
        """Of the rounds before it, and its own."""
        return *(round.question for round in self.before.rounds), self.sample.question


@dataclass(frozen=True)
class Failure:
    """There is no answer: one of segzero.evaluation.prediction.FAILURES, and what happened."""

    code: str
    problem: str


@dataclass(frozen=True, eq=False)
class _Question:
    """What is asked at one moment of a dialogue."""

    id: str  # of a sample that it is asked for
    image: Image.Image
    text: str
    registry: Registry


def with_true_history(pipeline: SegZeroPipeline, rounds: Sequence[Round]) -> list[Segmentation | Failure]:
    """What comes of each round when it is told where the earlier objects really are."""
    asked = [_Question(one.sample.id, one.image, one.sample.question, one.before) for one in rounds]
    found = _ask(asked, pipeline.policy.frame, pipeline)
    return [_nothing(one) if what is None else what for one, what in zip(rounds, found, strict=True)]


def with_predicted_history(pipeline: SegZeroPipeline, rounds: Sequence[Round]) -> list[Segmentation | Failure]:
    """What comes of each round when the policy was asked the earlier questions too, and is told its own answers.

    All first questions are asked at once, then all second ones, and so on; those that several samples share (the same
    image, the same questions until there) once. Masks are drawn for the samples' own rounds alone, when all is said.
    """
    frame = pipeline.policy.frame
    moments = [[(id(one.image), one.questions[: depth + 1]) for depth in range(len(one.questions))] for one in rounds]
    registries: dict[tuple, Registry] = {}  # by moment: all rounds until there
    came: dict[tuple, Said | Failure | None] = {}
    for depth in range(max(map(len, moments), default=0)):
        asked: dict[tuple, _Question] = {}
        for one, own in zip(rounds, moments, strict=True):
            if depth < len(own):
                before = registries[own[depth - 1]] if depth else Registry(one.sample.size)
                asked.setdefault(own[depth], _Question(one.sample.id, one.image, one.questions[depth], before))
        answers = any(isinstance(what, Said) for what in came.values())
        found = _ask(list(asked.values()), frame, pipeline.ask, answers)
        for (moment, question), what in zip(asked.items(), found, strict=True):
            came[moment] = what
            registries[moment] = answered(question.registry, question.text, _read(what), frame)
    last = [came[own[-1]] for own in moments]
    said = [(one, what) for one, what in zip(rounds, last, strict=True) if isinstance(what, Said)]
    drawn = iter(pipeline.draw([one.image for one, _ in said], [what for _, what in said]))
    return [
        _nothing(one) if what is None else what if isinstance(what, Failure) else next(drawn)
        for one, what in zip(rounds, last, strict=True)
    ]


def _nothing(round: Round) -> Segmentation:
    return Segmentation(round.image, round.sample.question)


def _read(what: Said | Failure | None) -> Answer:
    if isinstance(what, Said):
        return what.answer
    return NOTHING if what is None else UNREAD


def _ask(
    questions: Sequence[_Question], frame: Frame, ask: Ask[Reply], answers: bool = False
) -> list[Reply | Failure | None]:
    """What is replied to each, or why nothing is; None where nobody needs to be asked, as the answer is: nothing.

    `answers`: the policy has answered others.
    """
    found: list[Reply | Failure | None] = []
    waiting: list[tuple[int, _Question, Prepared]] = []
    for place, question in enumerate(questions):
        found.append(None)
        try:
            if not is_nothing(question.text, question.registry):
                waiting.append((place, question, recall(question.text, question.registry, frame)))
        except UserError as error:
            found[place] = Failure("lost_reference" if isinstance(error, LostReference) else "policy_error", str(error))
    replies = _replies([question for _, question, _ in waiting], [prepared for *_, prepared in waiting], ask, answers)
    for (place, *_), reply in zip(waiting, replies, strict=True):
        found[place] = reply
    return found


def _replies(
    questions: Sequence[_Question], prepared: Sequence[Prepared], ask: Ask[Reply], answers: bool
) -> Sequence[Reply | Failure]:
    """All at once; if that is refused, one after the other.

    Refused one and all, it is no sample's fault, unless the policy is there and answers others.
    """

    def call(some: slice) -> list[Reply]:
        told = prepared[some]
        return ask([one.image for one in questions[some]], [one.question for one in told], [one.notes for one in told])

    if len(questions) > 1:
        with suppress(UserError):
            return call(slice(None))
    found: list[Reply | Failure] = []
    refused: list[UserError] = []
    gone = False  # some refusal was that nobody is there
    for place, question in enumerate(questions):
        try:
            found += call(slice(place, place + 1))
        except TimedOut as error:
            found.append(Failure("time_out", str(error)))
        except UserError as error:
            found.append(Failure("policy_error", str(error)))
            refused.append(UserError(f"sample {question.id!r}: {error}"))
            gone = gone or isinstance(error, Unavailable)
    if refused and len(refused) == len(found) and (gone or not answers):
        raise refused[0]
    return found

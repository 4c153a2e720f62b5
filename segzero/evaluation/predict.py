"""Predictions of a batch of samples: loaded models, the policy's questions, failures of single samples.

>>> models = EvaluationModels(policy="Ricky06662/VisionReasoner-7B", segmenter="facebook/sam2-hiera-large")
>>> pipeline, settings = models.load()                                                         # doctest: +SKIP
>>> prediction, row = answer(pipeline, samples)[0]                                             # doctest: +SKIP
>>> row.score                                                                                  # doctest: +SKIP
Score(intersection=18230, union=20100, pred_empty=False, true_empty=False, failed=False)

A sample of a dialogue has earlier rounds. With true history its prompt shows where the objects of those rounds really
are; with predicted history the policy is asked all earlier questions too, and its prompt shows its own answers.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image

from segzero.answer import Answer
from segzero.dialogue.prompting import add_answer, build_prompt, registry_from_turns
from segzero.dialogue.references import LostReference
from segzero.dialogue.registry import Registry, Round
from segzero.errors import TimedOut, Unavailable, UserError
from segzero.evaluation.benchmarks import Record, Unreadable
from segzero.evaluation.cache import Cache, DiskCachedMaskModel, DiskCachedPolicy, DiskCachedSegmenter
from segzero.evaluation.predictions import Prediction
from segzero.evaluation.provenance import comparable, settings_of
from segzero.evaluation.scoring import Row
from segzero.mask_pipeline import MaskPipeline
from segzero.pipeline import Pipeline, PolicyOutput, Query, SegZeroPipeline
from segzero.policy import Sampling, load_policy
from segzero.programs.pipeline import ProgramPipeline
from segzero.programs.writer import ProgramWriter
from segzero.refinement.pipeline import RefiningPipeline, refining
from segzero.result import Segmentation
from segzero.sample import Sample
from segzero.segmenter import load_segmenter
from segzero.segmenter.everything import PRESETS
from segzero.several_answers import SeveralAnswersPipeline
from segzero.votes import VoteSettings

TRUE, PREDICTED = "true", "predicted"
HISTORIES = (TRUE, PREDICTED)
EMPTY_ANSWER = Answer()  # readable, without objects
UNREADABLE_ANSWER = Answer(error="no_answer")  # stands for a failed round in the prompts of later ones

Output = PolicyOutput | Segmentation
Reply = TypeVar("Reply", bound=Output)


class Loader(Protocol):
    """Names of models, and how they are run."""

    def load(self) -> tuple[Pipeline, dict[str, Any]]:
        """Load the models; returns the pipeline, and the settings that a resumed evaluation must share."""
        ...


@dataclass(frozen=True)
class EvaluationMaskModel:
    """The folder of a mask model, and how it is run."""

    path: str
    device: str = "auto"
    batch: int = 16
    cache: Path | None = None  # folder of answers that are computed only once
    draw_rejected: bool = False

    def load(self) -> tuple[MaskPipeline, dict[str, Any]]:
        """Load the model; returns the pipeline, and the settings that a resumed evaluation must share."""
        model = MaskPipeline.from_pretrained(self.path, self.device).model
        settings = settings_of(MaskPipeline(model, self.batch, self.draw_rejected))
        if self.cache:
            model = DiskCachedMaskModel(model, Cache(self.cache), comparable(settings)["mask_model"])
        return MaskPipeline(model, self.batch, self.draw_rejected), settings


@dataclass(frozen=True)
class EvaluationModels:
    """Names of a policy and a segmenter, and how they are run. Answers are greedy."""

    policy: str
    segmenter: str
    policy_backend: str = "auto"
    segmenter_backend: str = "auto"
    device: str = "auto"
    frame: str | None = None
    prompt: str | None = None
    max_tokens: int = 2048
    batch: int = 16
    cache: Path | None = None  # folder of answers and masks that are computed only once
    refine: int = 0  # looks of the policy at each of its masks
    refine_seconds: float = math.inf  # in which a batch's masks are looked at

    def load(self) -> tuple[SegZeroPipeline, dict[str, Any]]:
        """Load both models; returns the pipeline, and the settings that a resumed evaluation must share."""
        segmenter = load_segmenter(self.segmenter, self.segmenter_backend, device=self.device)
        policy = load_policy(self.policy, self.policy_backend, frame=self.frame, prompt=self.prompt, device=self.device)
        pipeline = SegZeroPipeline(policy, segmenter, sampling=Sampling(max_tokens=self.max_tokens), batch=self.batch)
        if self.refine:
            pipeline = refining(pipeline, self.refine, self.refine_seconds)
        return with_cache(pipeline, self.cache) if self.cache else pipeline, settings_of(pipeline)


@dataclass(frozen=True)
class EvaluationSeveralAnswers:
    """A policy and a segmenter, and how many of the policy's answers each question gets."""

    models: EvaluationModels
    votes: VoteSettings | None = None
    own_attempts: int = 0

    def load(self) -> tuple[SeveralAnswersPipeline, dict[str, Any]]:
        """Load the models; returns the pipeline, and the settings that a resumed evaluation must share."""
        pair, settings = self.models.load()
        pipeline = SeveralAnswersPipeline(pair, self.votes, self.own_attempts)
        return pipeline, settings | pipeline.settings


@dataclass(frozen=True)
class EvaluationPrograms:
    """A language model that writes a program for each question, and the models that the programs call."""

    models: EvaluationModels
    writer: str  # the language model's address
    preset: str = "sam2"  # of EVERYTHING, a name in PRESETS

    def load(self) -> tuple[ProgramPipeline, dict[str, Any]]:
        """Load the models and reach the writer; returns the pipeline, and its settings."""
        writer = ProgramWriter(self.writer)
        pipeline, settings = self.models.load()
        # Only answers are kept on the disk: EVERYTHING needs all three masks of a point, which the cache doesn't have.
        segmenter = getattr(pipeline.segmenter, "uncached", pipeline.segmenter)
        pipeline = pipeline.with_models(pipeline.policy, segmenter)
        programs = ProgramPipeline(pipeline, writer, PRESETS[self.preset], batch=pipeline.batch)
        return programs, settings | {"program_writer": writer.name, "everything": self.preset}


def with_cache(pipeline: SegZeroPipeline, folder: Path) -> SegZeroPipeline:
    """Make a pipeline that keeps its greedy answers and its masks in a folder, and takes them from there.

    Masks that are corrected are drawn from earlier ones, which the cache does not know: only answers are kept then.
    """
    cache, settings = Cache(folder), comparable(settings_of(pipeline))
    policy = DiskCachedPolicy(pipeline.policy, cache, settings["policy"])
    if isinstance(pipeline, RefiningPipeline):
        return pipeline.with_models(policy, pipeline.segmenter)
    return pipeline.with_models(policy, DiskCachedSegmenter(pipeline.segmenter, cache, settings["segmenter"]))


def answer(pipeline: Pipeline, records: Sequence[Record], history: str | None = None) -> list[tuple[Prediction, Row]]:
    """Predict and score each record, in order. An error that concerns one record alone becomes its failure.

    `history`: the earlier rounds that the prompts of dialogues show, TRUE (default) or PREDICTED.
    """
    predictions: dict[int, Prediction] = {}
    rounds: dict[int, DialogueRound] = {}
    images: dict[str | bytes, Image.Image] = {}
    for place, record in enumerate(records):
        if isinstance(record, Unreadable):
            predictions[place] = Prediction.failed(record, "unreadable", record.problem)
            continue
        try:
            image = _open(record, pipeline, images)
        except UserError as error:
            predictions[place] = Prediction.failed(record, "image_error", str(error))
            continue
        try:
            rounds[place] = DialogueRound(record, image, registry_from_turns(record.turns, record.size))
        except UserError as error:
            predictions[place] = Prediction.failed(record, "unreadable", str(error))
    ask = ask_with_predicted_history if history == PREDICTED else ask_with_true_history
    for (place, one), outcome in zip(rounds.items(), ask(pipeline, list(rounds.values())), strict=True):
        if isinstance(outcome, Failure):
            predictions[place] = Prediction.failed(one.sample, outcome.code, outcome.problem)
        else:
            predictions[place] = Prediction.from_result(one.sample, outcome)
    undivided = pipeline.undivided
    return [replace(predictions[place], undivided=undivided).scored(record) for place, record in enumerate(records)]


def _open(sample: Sample, pipeline: Pipeline, images: dict[str | bytes, Image.Image]) -> Image.Image:
    """Open the sample's image, once for all rounds of a dialogue."""
    if sample.image not in images:
        images[sample.image] = sample.open()
    image = images[sample.image]
    if image.size != sample.size:
        raise UserError(f"its image is {image.width}x{image.height}, its record says {sample.width}x{sample.height}")
    pipeline.fits(image)
    return image


@dataclass(frozen=True, eq=False)
class DialogueRound:
    """A sample with its image and its true earlier rounds. Rounds of one dialogue share the image object."""

    sample: Sample
    image: Image.Image
    true_history: Registry

    @property
    def questions(self) -> tuple[str, ...]:
        """Questions of the earlier rounds, then the sample's own."""
        return *(earlier.question for earlier in self.true_history.rounds), self.sample.question


@dataclass(frozen=True)
class Failure:
    """Reason why there is no answer: one of segzero.evaluation.predictions.FAILURES, and the error's text."""

    code: str
    problem: str


@dataclass(frozen=True, eq=False)
class _Turn:
    """One question for the policy, after the rounds of a registry."""

    sample_id: str  # of a sample that needs it
    image: Image.Image
    question: str
    history: Registry


def ask_with_true_history(pipeline: Pipeline, rounds: Sequence[DialogueRound]) -> list[Segmentation | Failure]:
    """Answer each round with the true objects of its earlier rounds in the prompt."""
    turns = [_Turn(one.sample.id, one.image, one.sample.question, one.true_history) for one in rounds]
    replies = _ask(turns, pipeline, pipeline.run)
    return [_empty_result(one) if reply is None else reply for one, reply in zip(rounds, replies, strict=True)]


def ask_with_predicted_history(pipeline: Pipeline, rounds: Sequence[DialogueRound]) -> list[Segmentation | Failure]:
    """Answer each round after the policy's own answers to the earlier questions.

    All first questions are asked in one batch, then all second ones, and so on. A question that several samples share
    (the same image and the same questions before it) is asked once. Masks are drawn only for the samples' own rounds.
    """
    # Key of each question of each round: the image, and all questions up to that one.
    keys = [[(id(one.image), one.questions[: depth + 1]) for depth in range(len(one.questions))] for one in rounds]
    histories: dict[tuple, Registry] = {}  # key -> all rounds up to that one
    replies: dict[tuple, Output | Failure | None] = {}
    for depth in range(max(map(len, keys), default=0)):
        turns: dict[tuple, _Turn] = {}
        for one, own in zip(rounds, keys, strict=True):
            if depth < len(own):
                history = histories[own[depth - 1]] if depth else Registry(one.sample.size)
                turns.setdefault(own[depth], _Turn(one.sample.id, one.image, one.questions[depth], history))
        answered = any(isinstance(reply, Output) for reply in replies.values())
        new = _ask(list(turns.values()), pipeline, pipeline.ask, answered)
        for (key, turn), reply in zip(turns.items(), new, strict=True):
            replies[key] = reply
            histories[key] = _remember(turn, reply, pipeline)
    last = [replies[own[-1]] for own in keys]
    drawn = iter(pipeline.draw([reply for reply in last if isinstance(reply, Output)]))
    return [
        _empty_result(one) if reply is None else reply if isinstance(reply, Failure) else next(drawn)
        for one, reply in zip(rounds, last, strict=True)
    ]


def _empty_result(one: DialogueRound) -> Segmentation:
    return Segmentation(one.image, one.sample.question)


def _remember(turn: _Turn, reply: Output | Failure | None, pipeline: Pipeline) -> Registry:
    """Add a question with its answer to the rounds before it."""
    history, question = turn.history, turn.question
    if isinstance(reply, Segmentation):
        return history.add(Round(len(history.rounds) + 1, question, history.number(question, reply.instances)))
    answer = reply.answer if isinstance(reply, PolicyOutput) else EMPTY_ANSWER if reply is None else UNREADABLE_ANSWER
    return add_answer(history, question, answer, pipeline.frame)


def _ask(
    turns: Sequence[_Turn], pipeline: Pipeline, ask: Callable[[list[Query]], list[Reply]], answered: bool = False
) -> list[Reply | Failure | None]:
    """Ask the policy each question; None where it refers to nothing, so that the answer is empty without asking.

    `answered`: the policy has answered other questions before, and is not to blame if it refuses all of these.
    """
    replies: list[Reply | Failure | None] = [None] * len(turns)
    queries: dict[int, Query] = {}  # by place in `turns`
    for place, turn in enumerate(turns):
        try:
            prompt = build_prompt(turn.question, turn.history, pipeline.frame, memory=pipeline.memories[0])
        except UserError as error:
            code = "lost_reference" if isinstance(error, LostReference) else "policy_error"
            replies[place] = Failure(code, str(error))
            continue
        if not prompt.answer_is_empty:
            queries[place] = prompt.query(turn.image)
    ids = [turns[place].sample_id for place in queries]
    for place, reply in zip(queries, _ask_all(list(queries.values()), ids, ask, answered), strict=True):
        replies[place] = reply
    return replies


def _ask_all(
    queries: Sequence[Query], ids: Sequence[str], ask: Callable[[list[Query]], list[Reply]], answered: bool
) -> Sequence[Reply | Failure]:
    """Ask all queries in one batch, or one by one if the batch is refused.

    Where every query is refused the error is raised, unless the policy answers others and can be reached.
    """
    if len(queries) > 1:
        with suppress(UserError):
            return ask(list(queries))
    replies: list[Reply | Failure] = []
    refusals: list[UserError] = []
    unavailable = False
    for query, id in zip(queries, ids, strict=True):
        try:
            replies += ask([query])
        except TimedOut as error:
            replies.append(Failure("time_out", str(error)))
        except UserError as error:
            replies.append(Failure("policy_error", str(error)))
            refusals.append(UserError(f"sample {id!r}: {error}"))
            unavailable = unavailable or isinstance(error, Unavailable)
    if refusals and len(refusals) == len(replies) and (unavailable or not answered):
        raise refusals[0]
    return replies

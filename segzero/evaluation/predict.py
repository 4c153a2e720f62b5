"""A batch of samples -> a Prediction for each, failures too. The work that evaluation shares out.

>>> models = Models(policy="Ricky06662/VisionReasoner-7B", segmenter="facebook/sam2-hiera-large")     # doctest: +SKIP
>>> pipeline, settings = models.load()                                                                # doctest: +SKIP
>>> answer(pipeline, samples)[0].score                                                                # doctest: +SKIP
Score(intersection=18230, union=20100, pred_empty=False, true_empty=False, failed=False)
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from segzero.answer import Answer
from segzero.dialogue.prompting import PolicyPrompt, add_answer, build_prompt, registry_from_turns
from segzero.dialogue.references import LostReference
from segzero.dialogue.registry import Registry
from segzero.errors import TimedOut, Unavailable, UserError
from segzero.evaluation.benchmarks import Item, Unreadable
from segzero.evaluation.cache import Cache, DiskCachedPolicy, DiskCachedSegmenter
from segzero.evaluation.predictions import Prediction
from segzero.evaluation.provenance import fingerprint
from segzero.frames import Frame
from segzero.pipeline import PolicyOutput, Query, SegZeroPipeline
from segzero.policy import Sampling, load_policy
from segzero.prompts import get_prompt
from segzero.result import Segmentation
from segzero.sample import Sample
from segzero.segmenter import load_segmenter


@dataclass(frozen=True)
class Models:
    """Which policy and segmenter are asked, and how. Answers are greedy."""

    policy: str
    segmenter: str
    policy_backend: str = "auto"
    segmenter_backend: str = "auto"
    device: str = "auto"
    frame: str | None = None
    prompt: str | None = None
    max_tokens: int = 2048
    batch: int = 16
    cache: Path | None = None  # where answers and masks are kept

    def load(self) -> tuple[SegZeroPipeline, dict[str, Any]]:
        """The pipeline, and what must be the same for two evaluations to be one."""
        segmenter = load_segmenter(self.segmenter, self.segmenter_backend, device=self.device)
        policy = load_policy(self.policy, self.policy_backend, frame=self.frame, prompt=self.prompt, device=self.device)
        pipeline = SegZeroPipeline(policy, segmenter, sampling=Sampling(max_tokens=self.max_tokens), batch=self.batch)
        return remember(pipeline, self.cache) if self.cache else pipeline, settings_of(pipeline)


def settings_of(pipeline: SegZeroPipeline) -> dict[str, Any]:
    """Models, frame, prompt and decoding, as the protocol tells them."""
    prompt = pipeline.prompt_name
    return {
        "policy": _identity(pipeline.policy),
        "segmenter": _identity(pipeline.segmenter),
        "frame": str(pipeline.policy.frame),
        "prompt": prompt,
        "format": get_prompt(prompt).format,
        "decoding": "greedy" if pipeline.sampling.temperature == 0 else f"temperature {pipeline.sampling.temperature}",
        "max_tokens": pipeline.sampling.max_tokens,
        "seed": pipeline.sampling.seed,
    }


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without the names of models whose files are known: a moved checkpoint is the same one."""
    return {
        key: {name: v for name, v in value.items() if name != "name"} if _has_hash(value) else value
        for key, value in settings.items()
    }


def remember(pipeline: SegZeroPipeline, cache: Path) -> SegZeroPipeline:
    """The same pipeline, whose greedy answers and masks are kept in that folder."""
    kept, told = Cache(cache), comparable(settings_of(pipeline))
    return SegZeroPipeline(
        DiskCachedPolicy(pipeline.policy, kept, told["policy"]),
        DiskCachedSegmenter(pipeline.segmenter, kept, told["segmenter"]),
        pipeline.prompt,
        pipeline.sampling,
        pipeline.batch,
    )


def answer(pipeline: SegZeroPipeline, items: Sequence[Item], history: str | None = None) -> list[Prediction]:
    """One prediction for each item, in order. What concerns one of them becomes its failure; the rest is raised.

    `history`: which earlier rounds samples of dialogues are told of, the true ones or those "predicted" by the policy.
    """
    done: dict[int, Prediction] = {}
    ready: dict[int, Round] = {}
    images: dict[str | bytes, Image.Image] = {}
    for number, item in enumerate(items):
        if isinstance(item, Unreadable):
            done[number] = Prediction.failed(item, "unreadable", item.problem)
            continue
        try:
            image = _open(item, pipeline.policy.frame, images)
        except UserError as error:
            done[number] = Prediction.failed(item, "image_error", str(error))
            continue
        try:
            ready[number] = Round(item, image, registry_from_turns(item.turns, item.size))
        except UserError as error:
            done[number] = Prediction.failed(item, "unreadable", str(error))
    ask = with_predicted_history if history == PREDICTED else with_true_history
    for (number, round), outcome in zip(ready.items(), ask(pipeline, list(ready.values())), strict=True):
        if isinstance(outcome, Failure):
            done[number] = Prediction.failed(round.sample, outcome.code, outcome.problem)
        else:
            done[number] = Prediction.of(round.sample, outcome)
    return [done[number] for number in range(len(items))]


def _open(sample: Sample, frame: Frame, images: dict[str | bytes, Image.Image]) -> Image.Image:
    """The sample's image; rounds of one dialogue get one object."""
    if sample.image not in images:
        images[sample.image] = sample.open()
    image = images[sample.image]
    if image.size != sample.size:
        raise UserError(f"its image is {image.width}x{image.height}, its record says {sample.width}x{sample.height}")
    frame.model_size(image.size)  # refuses shapes the policy can't see
    return image


def _has_hash(value: Any) -> bool:
    return isinstance(value, dict) and value.get("sha256") is not None


def _identity(model: Any) -> dict[str, Any]:
    """What tells a model from any other: its files; a server's by its name."""
    model = getattr(model, "policy", None) or getattr(model, "segmenter", None) or model
    found = {"name": model.name, "backend": type(model).__name__, "sha256": fingerprint(model.name)}
    device = getattr(model, "device", None)
    return found | ({"device": getattr(device, "type", str(device))} if device is not None else {})


TRUE, PREDICTED = "true", "predicted"
HISTORIES = (TRUE, PREDICTED)
NOTHING = Answer()  # could be read, and nothing is there
UNREAD = Answer(error="no_answer")  # what later rounds are told of a round that failed

Reply = TypeVar("Reply", Segmentation, PolicyOutput)
Ask = Callable[[list[Query]], list[Reply]]


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
    """There is no answer: one of segzero.evaluation.predictions.FAILURES, and what happened."""

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
    found = _ask(asked, pipeline.policy.frame, pipeline.run)
    return [_nothing(one) if what is None else what for one, what in zip(rounds, found, strict=True)]


def with_predicted_history(pipeline: SegZeroPipeline, rounds: Sequence[Round]) -> list[Segmentation | Failure]:
    """What comes of each round when the policy was asked the earlier questions too, and is told its own answers.

    All first questions are asked at once, then all second ones, and so on; those that several samples share (the same
    image, the same questions until there) once. Masks are drawn for the samples' own rounds alone, when all is said.
    """
    frame = pipeline.policy.frame
    moments = [[(id(one.image), one.questions[: depth + 1]) for depth in range(len(one.questions))] for one in rounds]
    registries: dict[tuple, Registry] = {}  # by moment: all rounds until there
    came: dict[tuple, PolicyOutput | Failure | None] = {}
    for depth in range(max(map(len, moments), default=0)):
        asked: dict[tuple, _Question] = {}
        for one, own in zip(rounds, moments, strict=True):
            if depth < len(own):
                before = registries[own[depth - 1]] if depth else Registry(one.sample.size)
                asked.setdefault(own[depth], _Question(one.sample.id, one.image, one.questions[depth], before))
        answers = any(isinstance(what, PolicyOutput) for what in came.values())
        found = _ask(list(asked.values()), frame, pipeline.ask, answers)
        for (moment, question), what in zip(asked.items(), found, strict=True):
            came[moment] = what
            registries[moment] = add_answer(question.registry, question.text, _read(what), frame)
    last = [came[own[-1]] for own in moments]
    said = [(one, what) for one, what in zip(rounds, last, strict=True) if isinstance(what, PolicyOutput)]
    drawn = iter(pipeline.draw([what for _, what in said]))
    return [
        _nothing(one) if what is None else what if isinstance(what, Failure) else next(drawn)
        for one, what in zip(rounds, last, strict=True)
    ]


def _nothing(round: Round) -> Segmentation:
    return Segmentation(round.image, round.sample.question)


def _read(what: PolicyOutput | Failure | None) -> Answer:
    if isinstance(what, PolicyOutput):
        return what.answer
    return NOTHING if what is None else UNREAD


def _ask(
    questions: Sequence[_Question], frame: Frame, ask: Ask[Reply], answers: bool = False
) -> list[Reply | Failure | None]:
    """What is replied to each, or why nothing is; None where nobody needs to be asked, as the answer is: nothing.

    `answers`: the policy has answered others.
    """
    found: list[Reply | Failure | None] = []
    waiting: list[tuple[int, _Question, PolicyPrompt]] = []
    for place, question in enumerate(questions):
        found.append(None)
        try:
            prompt = build_prompt(question.text, question.registry, frame)
            if not prompt.answer_is_empty:
                waiting.append((place, question, prompt))
        except UserError as error:
            found[place] = Failure("lost_reference" if isinstance(error, LostReference) else "policy_error", str(error))
    replies = _replies([question for _, question, _ in waiting], [prepared for *_, prepared in waiting], ask, answers)
    for (place, *_), reply in zip(waiting, replies, strict=True):
        found[place] = reply
    return found


def _replies(
    questions: Sequence[_Question], prepared: Sequence[PolicyPrompt], ask: Ask[Reply], answers: bool
) -> Sequence[Reply | Failure]:
    """All at once; if that is refused, one after the other.

    Refused one and all, it is no sample's fault, unless the policy is there and answers others.
    """

    def call(some: slice) -> list[Reply]:
        pairs = zip(questions[some], prepared[some], strict=True)
        return ask([Query(one.image, prompt.question, prompt.notes) for one, prompt in pairs])

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

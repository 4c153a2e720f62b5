"""The path from images and questions to masks, which inference, evaluation, dialogue, server and demo take.

>>> pipeline = SegZeroPipeline.from_pretrained()                      # doctest: +SKIP
>>> [result] = pipeline(["street.jpg"], ["what keeps the rain off"])
>>> result.think, result.union.shape
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Protocol

from PIL import Image

from segzero import shipped
from segzero.answer import Answer, Instance, parse_answer
from segzero.errors import UserError
from segzero.frames import Frame, Size, clip_box, clip_point
from segzero.images import load_image
from segzero.masks import Box, Mask, Point
from segzero.policy import Policy, Request, Sampling, load_policy
from segzero.prompts import get_prompt, render_messages
from segzero.result import InstanceMask, Segmentation
from segzero.segmenter import Embeddings, MaskPrompt, Segmenter, load_segmenter
from segzero.segmenter.everything import PRESETS, EverythingSettings, FoundMask, find_everything
from segzero.segmenter.protocol import enlarge
from segzero.segmenter.words import PhrasePrompt, draw_phrases, reads_text

GREEDY = Sampling()
ImageLike = str | Path | bytes | Image.Image


@dataclass(frozen=True, eq=False)
class Query:
    """One question about one image, in the words that the model reads.

    `on_text` is called with the full text so far while the answer is generated. It may restart from an empty text.
    """

    image: Image.Image
    question: str
    notes: str = ""  # earlier rounds of a dialogue, as segzero.dialogue.prompting writes them
    extra_images: tuple[Image.Image, ...] = ()  # the image once more, marked or enlarged
    on_text: Callable[[str], object] | None = None
    earlier: tuple[Mask, ...] = ()  # masks [H, W] to which the question refers; for models that take masks, not notes
    wants_presence: bool = False  # the result should say how surely something is there
    seed: int | None = None  # of a sampled answer; None: by its place among the queries


class Pipeline(Protocol):
    """The interface from questions to masks on which evaluation, dialogues and server depend, whatever the models."""

    batch: int  # bounds how many images are held at once
    undivided: ClassVar[bool]  # answers are one mask for all that was asked for, without boxes or points
    memories: ClassVar[tuple[str, ...]]  # ways of showing earlier rounds (segzero.dialogue.memory), the default first

    @property
    def frame(self) -> Frame:
        """The numbers in which places are written for the model."""
        ...

    @property
    def answerer(self) -> Any:
        """The model that reads questions; it has a `name`."""
        ...

    @property
    def segmenter(self) -> Segmenter | None:
        """The model that draws by hand, from clicks and boxes."""
        ...

    @property
    def models(self) -> dict[str, Any]:
        """The models that answers depend on, by what they are for."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """Protocol of a report: prompt, decoding and the like, by name."""
        ...

    def fits(self, image: Image.Image) -> None:
        """Refuse an image of a shape that the models can't see."""
        ...

    def run(self, queries: Sequence[Query]) -> list[Segmentation]:
        """Answer one batch of queries with masks."""
        ...

    def ask(self, queries: Sequence[Query]) -> list[Any]:
        """Answer as far as later questions need it: a `PolicyOutput`, or a `Segmentation` where masks come at once."""
        ...

    def draw(self, outputs: Sequence[Any]) -> list[Segmentation]:
        """Turn what `ask` returned into results with masks."""
        ...

    def answer(self, query: Query, embed: Callable[[], Embeddings]) -> Segmentation:
        """Answer a single query; `embed` gives its image as the segmenter encoded it, for those who need that."""
        ...

    def with_models(self, answerer: Any, segmenter: Segmenter) -> "Pipeline":
        """Copy the pipeline with other models of the same kinds."""
        ...

    def close(self) -> None:
        """Release the models; the pipeline can't be used afterwards."""
        ...


@dataclass(frozen=True, eq=False)
class PolicyOutput:
    """The policy's answer to a query, parsed but without masks."""

    image: Image.Image
    question: str
    text: str
    answer: Answer
    seconds: float  # that the policy took, shared equally among the queries of its batch
    presence: float | None = None  # how surely something is there, by the policy's own probabilities


@dataclass
class SegZeroPipeline:
    """A policy that answers and a segmenter that draws masks. `batch` bounds how many images are held at once.

    Images are encoded for the segmenter while the policy generates, even those in which it then finds nothing.
    """

    policy: Policy
    segmenter: Segmenter
    prompt: str = ""  # a name in segzero.prompts; empty: the one the policy was trained with
    sampling: Sampling = GREEDY
    batch: int = 64
    undivided: ClassVar[bool] = False
    memories: ClassVar[tuple[str, ...]] = ("text", "marks", "crop")

    @classmethod
    def from_pretrained(
        cls,
        policy: str | Path | None = None,
        segmenter: str | Path | None = None,
        *,
        policy_backend: str = "auto",
        segmenter_backend: str = "auto",
        frame: str | Frame | None = None,
        prompt: str | None = None,
        device: str = "auto",
        sampling: Sampling | None = None,
    ) -> "SegZeroPipeline":
        """Load both models by folder or hub name; without names, the small ones that come with the package."""
        masks = load_segmenter(segmenter or shipped.segmenter_path(), segmenter_backend, device=device)
        path = policy or shipped.policy_path()
        answers = load_policy(path, policy_backend, frame=frame, prompt=prompt, device=device)
        return cls(answers, masks, sampling=sampling or GREEDY)

    @property
    def prompt_name(self) -> str:
        """The prompt that the policy is given, a name in segzero.prompts."""
        return self.prompt or self.policy.prompt

    @property
    def frame(self) -> Frame:
        """The numbers that the policy reads and writes."""
        return self.policy.frame

    @property
    def answerer(self) -> Policy:
        """The policy."""
        return self.policy

    @property
    def models(self) -> dict[str, Any]:
        """Policy and segmenter."""
        return {"policy": self.policy, "segmenter": self.segmenter}

    @property
    def settings(self) -> dict[str, Any]:
        """Frame, prompt and decoding."""
        greedy = self.sampling.temperature == 0
        return {
            "frame": str(self.frame),
            "prompt": self.prompt_name,
            "format": get_prompt(self.prompt_name).format,
            "decoding": "greedy" if greedy else f"temperature {self.sampling.temperature}",
            "max_tokens": self.sampling.max_tokens,
            "seed": self.sampling.seed,
        }

    def everything(self, image: ImageLike, settings: EverythingSettings = PRESETS["sam2"]) -> list[FoundMask]:
        """Find all masks of an image, best first, from a grid of points; the policy takes no part."""
        return find_everything(self.segmenter, load_image(image), settings)

    def close(self) -> None:
        """Close the policy."""
        self.policy.close()

    def fits(self, image: Image.Image) -> None:
        """Refuse an image of a shape that the policy can't see."""
        self.policy.frame.model_size(image.size)

    def __call__(
        self, images: Sequence[ImageLike], questions: Sequence[str], notes: Sequence[str] = ()
    ) -> list[Segmentation]:
        """Answer each question about its image with masks, in order; `notes` are shown to the policy beside each."""
        return list(self.stream(images, questions, notes))

    def stream(
        self, images: Sequence[ImageLike], questions: Sequence[str], notes: Sequence[str] = ()
    ) -> Iterator[Segmentation]:
        """Yield results a batch at a time, for progress bars and for more images than fit into memory."""
        if len(images) != len(questions):
            raise UserError(f"{len(images)} images but {len(questions)} questions; give one question for each image")
        rows = zip(images, questions, notes or [""] * len(questions), strict=True)
        while batch := list(islice(rows, self.batch)):
            yield from self.run([Query(load_image(image), question, note) for image, question, note in batch])

    def run(self, queries: Sequence[Query]) -> list[Segmentation]:
        """Answer one batch of queries with masks; the images are encoded in a thread beside the policy."""
        from torch import OutOfMemoryError

        images = [query.image for query in queries]
        with ThreadPoolExecutor(1) as executor:  # the policy leaves cores idle, or computes elsewhere
            encoding = executor.submit(self.segmenter.embed, images)
            outputs = self.ask(queries)
            begin = time.perf_counter()
        if isinstance(encoding.exception(), OutOfMemoryError):  # a GPU without room for both at once
            del encoding  # with its traceback, which would keep the failed batch alive
            embeddings = self.segmenter.embed(images)
        else:
            embeddings = encoding.result()
        return self.draw(outputs, embeddings, begin)

    def ask(self, queries: Sequence[Query]) -> list[PolicyOutput]:
        """Generate and parse the policy's answers, without masks."""
        begin = time.perf_counter()
        prompt, frame = get_prompt(self.prompt_name), self.policy.frame
        images = {id(query.image): query.image for query in queries}
        fitted = {key: frame.fit(image) for key, image in images.items()}  # one for all queries about an image
        requests = [
            Request(
                fitted[id(query.image)],
                render_messages(query.question, self.prompt_name, query.notes, images=1 + len(query.extra_images)),
                query.extra_images,
                query.on_text,
                query.wants_presence,
                query.seed,
            )
            for query in queries
        ]
        replies = self.policy.generate(requests, self.sampling)
        answers = [
            parse_answer(reply.text, prompt.format, extent=frame.extent(query.image.size))
            for query, reply in zip(queries, replies, strict=True)
        ]
        seconds = (time.perf_counter() - begin) / max(len(queries), 1)
        return [
            PolicyOutput(query.image, query.question, reply.text, answer, seconds, reply.presence)
            for query, reply, answer in zip(queries, replies, answers, strict=True)
        ]

    def answer(self, query: Query, embed: Callable[[], Embeddings]) -> Segmentation:
        """Answer a single query whose image is encoded by `embed`, once the policy has answered."""
        outputs = self.ask([query])
        begin = time.perf_counter()
        return self.draw(outputs, embed(), begin)[0]

    def with_models(self, answerer: Policy, segmenter: Segmenter) -> "SegZeroPipeline":
        """Copy the pipeline with another policy and segmenter."""
        return replace(self, policy=answerer, segmenter=segmenter)

    def draw(
        self, outputs: Sequence[PolicyOutput], embeddings: Embeddings | None = None, begin: float | None = None
    ) -> list[Segmentation]:
        """Draw the masks of parsed answers.

        `embeddings`: the image of each output, encoded. Without them, each image with something to draw is encoded
        once, however many outputs share it. `begin`: when the wait for the embeddings began, for the timings.
        """
        begin = time.perf_counter() if begin is None else begin
        if embeddings is None:
            groups = _outputs_by_image(outputs)
            embeddings = self.segmenter.embed([outputs[first].image for first, *_ in groups]) if groups else None
        else:
            groups = [[place] for place in range(len(outputs))]
        masks: list[tuple[InstanceMask, ...]] = [()] * len(outputs)
        if embeddings is not None:
            by_box = [() if self._reads(output) else output.answer.instances for output in outputs]
            together = [[each for place in group for each in by_box[place]] for group in groups]
            drawn = draw_instances(self.segmenter, embeddings, together, self.policy.frame)
            for number, (group, of_image) in enumerate(zip(groups, map(iter, drawn), strict=True)):
                for place in group:
                    masks[place] = tuple(islice(of_image, len(by_box[place])))
                    if self._reads(outputs[place]):
                        masks[place] = self._draw_phrases(outputs[place], embeddings[number])
        seconds = (time.perf_counter() - begin) / max(len(outputs), 1)
        undrawn = [0 if self._reads(one) else sum(each.box is None for each in one.answer.phrases) for one in outputs]
        return [_to_segmentation(*row, seconds) for row in zip(outputs, masks, undrawn, strict=True)]

    def _reads(self, output: PolicyOutput) -> bool:
        """True for an answer of phrases that the segmenter itself looks for."""
        return bool(output.answer.phrases) and reads_text(self.segmenter)

    def _draw_phrases(self, output: PolicyOutput, image: Embeddings) -> tuple[InstanceMask, ...]:
        prompts = phrases_in_pixels(output.answer, self.policy.frame, output.image.size)
        return tuple(
            InstanceMask(enlarge(one.logits[None], output.image.size)[0], one.box, (), one.score)
            for one in draw_phrases(self.segmenter, image, prompts)
        )


@dataclass
class PipelineOver:
    """Base of pipelines that answer by means of a policy and a segmenter, in a way of their own."""

    models_below: SegZeroPipeline
    undivided: ClassVar[bool] = False

    @property
    def frame(self) -> Frame:
        """The numbers that the policy reads and writes."""
        return self.models_below.frame

    @property
    def answerer(self) -> Policy:
        """The policy."""
        return self.models_below.policy

    @property
    def segmenter(self) -> Segmenter:
        """The segmenter."""
        return self.models_below.segmenter

    @property
    def models(self) -> dict[str, Any]:
        """Policy and segmenter."""
        return self.models_below.models

    def fits(self, image: Image.Image) -> None:
        """Refuse an image of a shape that the policy can't see."""
        self.models_below.fits(image)


def draw_instances(
    segmenter: Segmenter, embeddings: Embeddings, instances: Sequence[Sequence[Instance]], frame: Frame
) -> list[tuple[InstanceMask, ...]]:
    """Draw a mask for every instance; `instances` holds those of each encoded image.

    Coordinates leave the frame here; what reaches beyond the image is clipped to it.
    """
    places = [
        [in_pixels(instance, frame, size) for instance in listed]
        for listed, size in zip(instances, embeddings.sizes, strict=True)
    ]
    drawn = segmenter.decode(embeddings, [[MaskPrompt(box, points) for box, points in listed] for listed in places])
    return [
        tuple(
            InstanceMask(prediction.masks[0], box, points, float(prediction.scores[0]))
            for (box, points), prediction in zip(listed, predictions, strict=True)
        )
        for listed, predictions in zip(places, drawn, strict=True)
    ]


def in_pixels(instance: Instance, frame: Frame, size: Size) -> tuple[Box, tuple[Point, ...]]:
    """Convert an instance's box and points to the image's own pixels, clipped to it."""
    box = clip_box(frame.to_pixels(instance.box, size), size)
    return box, tuple(clip_point(frame.to_pixels(point, size), size) for point in instance.points)


def phrases_in_pixels(answer: Answer, frame: Frame, size: Size) -> list[PhrasePrompt]:
    """Convert an answer's phrases to prompts in the image's own pixels, each with its box or none."""
    return [
        PhrasePrompt(phrase.text, (in_pixels(Instance(phrase.box), frame, size)[0],) if phrase.box else ())
        for phrase in answer.phrases
    ]


def _outputs_by_image(outputs: Sequence[PolicyOutput]) -> list[list[int]]:
    """Group the places of outputs with objects by their image."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, output in enumerate(outputs):
        if output.answer.count:
            places[id(output.image)].append(place)
    return list(places.values())


def _to_segmentation(
    output: PolicyOutput, masks: tuple[InstanceMask, ...], undrawn: int, seconds: float
) -> Segmentation:
    """Make the result; `undrawn` phrases were left out, since only their words say what they are."""
    error, warnings = output.answer.error, (*output.answer.warnings, *["no_box"] * undrawn)
    if undrawn and not masks:
        error, warnings = "no_box", warnings[:-1]
    return Segmentation(
        output.image,
        output.question,
        masks,
        think=output.answer.think,
        raw_text=output.text,
        error=error,
        warnings=warnings,
        timings={"policy": output.seconds, "segmenter": seconds},
        presence=output.presence,
    )

"""Pipelines that spend several answers on a question: votes over masks, and own attempts in the prompt.

>>> pipeline = SeveralAnswersPipeline(SegZeroPipeline.from_pretrained(), VoteSettings(answers=8))   # doctest: +SKIP
>>> [result] = pipeline([image], ["the umbrella"])                                      # doctest: +SKIP
>>> result.presence                                                                  # doctest: +SKIP
0.875

Sampled answers depend on the seed, the image and the question, and not on what else is asked beside them: an evaluation
gives the same figures in any batches, and goes on where it was stopped.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

from segzero.answer import Answer, render_answer
from segzero.errors import UserError
from segzero.images import load_image, pixels_key
from segzero.pipeline import ImageLike, PipelineOver, PolicyOutput, Query, SegZeroPipeline
from segzero.policy import Policy
from segzero.prompts import get_prompt
from segzero.result import Segmentation
from segzero.segmenter import Embeddings, Segmenter
from segzero.votes import VoteSettings, vote

ATTEMPTS = 8  # own attempts that SWiM shows
LISTED = 12  # objects of an attempt that the prompt lists
TEMPERATURE = 1.0  # of own attempts


@dataclass
class SeveralAnswersPipeline(PipelineOver):
    """A pipeline whose policy answers each question more than once.

    With `own_attempts` it samples so many answers, reads them in its prompt, and answers again (SWiM). With `votes`,
    sampled answers vote about the result (StAR). With both, the answers that vote have read the attempts.
    """

    votes: VoteSettings | None = None
    own_attempts: int = 0
    memories: ClassVar[tuple[str, ...]] = SegZeroPipeline.memories

    @property
    def batch(self) -> int:
        """Most questions that are asked at once; each of their answers is a row of the policy's batch."""
        return self.models_below.batch

    @batch.setter
    def batch(self, batch: int) -> None:
        self.models_below.batch = batch

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the policy, of the vote, and the number of attempts in the prompt."""
        settings = dict(self.models_below.settings)
        if self.votes is not None:
            settings["votes"] = vars(self.votes).copy()
            settings["decoding"] = f"{self.votes.answers} votes at temperature {self.votes.temperature}"
        return settings | ({"own_attempts": self.own_attempts} if self.own_attempts else {})

    def close(self) -> None:
        """Close the policy."""
        self.models_below.close()

    def __call__(self, images: Sequence[ImageLike], questions: Sequence[str]) -> list[Segmentation]:
        """Answer each question about its image, in order."""
        if len(images) != len(questions):
            raise UserError(f"{len(images)} images but {len(questions)} questions; give one question for each image")
        rows, results = iter(zip(images, questions, strict=True)), []
        while some := list(islice(rows, self.batch)):
            results += self.run([Query(load_image(image), question) for image, question in some])
        return results

    def run(self, queries: Sequence[Query]) -> list[Segmentation]:
        """Answer one batch of queries."""
        queries, spent = self._with_attempts(queries)
        results = self.models_below.run(queries) if self.votes is None else self._vote(queries, self.votes)
        return [
            replace(one, timings=one.timings | {"policy": one.timings.get("policy", 0.0) + seconds})
            for one, seconds in zip(results, spent, strict=True)
        ]

    def ask(self, queries: Sequence[Query]) -> list[Segmentation]:
        """Answer with masks at once: a vote is one over masks."""
        return self.run(queries)

    def draw(self, outputs: Sequence[Segmentation]) -> list[Segmentation]:
        """Return the results as they are."""
        return list(outputs)

    def answer(self, query: Query, embed: Callable[[], Embeddings]) -> Segmentation:
        """Answer a single query."""
        return self.run([query])[0]

    def with_models(self, answerer: Policy, segmenter: Segmenter) -> "SeveralAnswersPipeline":
        """Copy the pipeline with another policy and segmenter."""
        return replace(self, models_below=self.models_below.with_models(answerer, segmenter))

    def _vote(self, queries: Sequence[Query], settings: VoteSettings) -> list[Segmentation]:
        groups = sample_outputs(self.models_below, queries, settings.answers, settings.temperature)
        # One question after the other, as all answers' masks of many large images would not fit into memory.
        return [vote(self.models_below.draw(outputs), settings) for outputs in groups]

    def _with_attempts(self, queries: Sequence[Query]) -> tuple[Sequence[Query], list[float]]:
        """Write the policy's own attempts into the prompt of each query; returns the seconds that they took too."""
        if not self.own_attempts:
            return queries, [0.0] * len(queries)
        groups = list(sample_outputs(self.models_below, queries, self.own_attempts, TEMPERATURE))
        format = get_prompt(self.models_below.prompt_name).format
        shown = [
            replace(query, notes="\n".join(filter(None, (query.notes, notes_of([o.answer for o in outputs], format)))))
            for query, outputs in zip(queries, groups, strict=True)
        ]
        return shown, [sum(output.seconds for output in outputs) for outputs in groups]


def sample_outputs(
    pipeline: SegZeroPipeline, queries: Sequence[Query], count: int, temperature: float
) -> Iterator[list[PolicyOutput]]:
    """Sample `count` answers to each query, all in one request to the policy; yields those of each query."""
    sampled = replace(pipeline, sampling=replace(pipeline.sampling, temperature=temperature))
    repeated = []
    for query in queries:
        what = f"{pixels_key(query.image)} {query.question} {query.notes}"
        seeds = [zlib.crc32(f"{draw} {what}".encode("utf-8", "replace")) for draw in range(count)]
        repeated += [replace(query, seed=seed, on_text=None) for seed in seeds]
    outputs = iter(sampled.ask(repeated))
    for _ in queries:
        yield list(islice(outputs, count))


def notes_of(answers: Sequence[Answer], format: str) -> str:
    """Write attempts for the prompt, without their thinking; equal ones are one line, the most frequent first.

    >>> print(notes_of([Answer(), Answer(error="not_json"), Answer()], "multi"))
    Earlier attempts at this question, which may be wrong:
    2 of 3: []
    1 of 3: no readable answer
    """
    lines = Counter(_attempt(answer, format) for answer in answers)
    listed = [f"{times} of {len(answers)}: {line}" for line, times in lines.most_common()]
    return "\n".join(["Earlier attempts at this question, which may be wrong:", *listed])


def _attempt(answer: Answer, format: str) -> str:
    if answer.error is not None:
        return "no readable answer"
    short = replace(answer, think="", instances=answer.instances[:LISTED], phrases=answer.phrases[:LISTED])
    return render_answer(short, format).removeprefix("<think></think><answer>").removesuffix("</answer>")

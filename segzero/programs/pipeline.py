"""Programs behind the interface of a pipeline, so that evaluation can ask them as it asks a policy.

>>> models, writer = SegZeroPipeline.from_pretrained(), ProgramWriter("http://127.0.0.1:8000/v1")  # doctest: +SKIP
>>> pipeline = ProgramPipeline(models, writer)                                     # doctest: +SKIP
>>> [result] = pipeline.run([Query(image, "all mugs but the red one")])            # doctest: +SKIP
>>> result.raw_text.splitlines()[-1]                                               # doctest: +SKIP
'RESULT(EXCEPT(A, B))'
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from PIL import Image

from segzero.errors import UserError
from segzero.pipeline import PipelineOver, Query
from segzero.policy import Policy
from segzero.programs.run import ProgramLimits, run_program
from segzero.programs.trace import Trace
from segzero.programs.writer import ProgramWriter, WrittenProgram
from segzero.result import Segmentation
from segzero.segmenter import Embeddings, Segmenter
from segzero.segmenter.everything import PRESETS, EverythingSettings


@dataclass
class ProgramPipeline(PipelineOver):
    """A language model that writes a program for each question, and the models that the program calls.

    A program that can't be read, or that fails, is a result with the error `program_error`, and its line.
    """

    writer: ProgramWriter
    everything: EverythingSettings = PRESETS["sam2"]
    limits: ProgramLimits = field(default_factory=ProgramLimits)
    batch: int = 16  # most images that are held at once
    memories: ClassVar[tuple[str, ...]] = ("text",)

    @property
    def settings(self) -> dict[str, Any]:
        """The policy's settings, and who writes the programs."""
        return self.models_below.settings | {"program_writer": self.writer.name}

    def run(self, queries: Sequence[Query]) -> list[Segmentation]:
        """Write a program for each question, and run it."""
        for query in queries:
            if query.notes or query.extra_images or query.earlier:
                raise UserError("programs know of no earlier rounds; leave --program-writer out for dialogues")
        written = self.writer.write_all([query.question for query in queries])
        return [self._run(query, one).segmentation for query, one in zip(queries, written, strict=True)]

    def _run(self, query: Query, written: WrittenProgram) -> Trace:
        if written.program is None:
            return unwritten(query.image, query.question, written)
        return run_program(
            self.models_below,
            query.image,
            written.program,
            query.question,
            limits=self.limits,
            everything=self.everything,
            attempts=written.attempts,
        )

    def ask(self, queries: Sequence[Query]) -> list[Segmentation]:
        """Answer with masks at once: a program's result is nothing without them."""
        return self.run(queries)

    def draw(self, outputs: Sequence[Segmentation]) -> list[Segmentation]:
        """Return the results as they are."""
        return list(outputs)

    def answer(self, query: Query, embed: Callable[[], Embeddings]) -> Segmentation:
        """Answer a single query."""
        return self.run([query])[0]

    def with_models(self, answerer: Policy, segmenter: Segmenter) -> "ProgramPipeline":
        """Copy the pipeline with another policy and segmenter."""
        return replace(self, models_below=self.models_below.with_models(answerer, segmenter))

    def close(self) -> None:
        """Close the policy."""
        self.models_below.close()


def unwritten(image: Image.Image, question: str, written: WrittenProgram) -> Trace:
    """The trace of a question for which no program could be read."""
    return Trace(image, question, None, attempts=written.attempts, problem=f"no program: {written.problem}")

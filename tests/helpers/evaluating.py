"""An evaluation in this process, with a pipeline that is loaded already."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from segzero.evaluation.benchmarks import Records, Task
from segzero.evaluation.predict import answer
from segzero.evaluation.provenance import settings_of
from segzero.evaluation.runner import evaluate
from segzero.pipeline import SegZeroPipeline


def run_evaluation(
    data: Task | Records, out: Path, pipeline: SegZeroPipeline, batch: int = 2, history: str | None = None, **more: Any
) -> dict[str, Any]:
    """Evaluate a task, or records that are read already; `stop_after` chunks the run is interrupted."""
    records = data if isinstance(data, Records) else Records(data)
    answer_all = answering(pipeline, more.pop("stop_after", None))
    return evaluate(records, out, answer_all, more.pop("settings", settings_of(pipeline)), batch, history, **more)


def answering(pipeline: SegZeroPipeline, stop_after: int | None = None) -> Callable[..., Iterator[list]]:
    """Answer chunk after chunk, as a single worker does; its `chunks` are the ids of each chunk so far."""

    def answer_all(chunks, history):
        for number, chunk in enumerate(chunks):
            if number == stop_after:
                raise KeyboardInterrupt
            answer_all.chunks.append([record.id for record in chunk])
            yield answer(pipeline, chunk, history)

    answer_all.chunks = []
    return answer_all

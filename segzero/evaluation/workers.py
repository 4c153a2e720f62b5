"""Who answers: this process, or several through Ray, each with its own models. Lines are written by one process.

>>> with started(models, workers=4) as (answer_all, settings):                             # doctest: +SKIP
...     for predictions in answer_all(chunks, None):                                       # in the order they finish
...         print(len(predictions))
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from segzero.errors import UserError
from segzero.evaluation.answering import Item, Models, answer
from segzero.evaluation.prediction import Prediction
from segzero.evaluation.runner import AnswerAll

QUEUED = 2  # chunks of a worker, so that it never waits for the next


@contextmanager
def started(models: Models, workers: int = 1) -> Iterator[tuple[AnswerAll, dict[str, Any]]]:
    """Load the models, once for each worker; yields what answers chunks of samples, and the settings."""
    if workers > 1:
        with _with_ray(models, workers) as both:
            yield both
        return
    pipeline, settings = models.load()
    try:
        yield lambda chunks, history: (answer(pipeline, chunk, history) for chunk in chunks), settings
    finally:
        pipeline.policy.close()


class _Worker:
    """A process of Ray's with its own models."""

    def load(self, models: Models) -> dict[str, Any]:
        """Load them; what goes wrong is the caller's to read."""
        self.pipeline, settings = models.load()
        return settings

    def answer(self, items: Sequence[Item], history: str | None) -> list[Prediction]:
        """A chunk."""
        return answer(self.pipeline, items, history)


@contextmanager
def _with_ray(models: Models, workers: int) -> Iterator[tuple[AnswerAll, dict[str, Any]]]:
    try:
        import ray
    except ImportError as error:
        raise UserError("several workers need Ray; pip install ray, or leave --workers out") from error
    import torch

    gpus = torch.cuda.device_count()
    share = max(1, gpus // workers) if gpus >= workers else gpus / workers
    # A Ray of our own, not whatever cluster happens to run on this machine.
    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        actor = ray.remote(num_cpus=1, num_gpus=share)(_Worker)
        actors = [actor.remote() for _ in range(workers)]
        settings = _get([each.load.remote(models) for each in actors])[0]
        yield lambda chunks, history: _share_out(actors, chunks, history), settings
    finally:
        ray.shutdown()


def _share_out(actors: Sequence[Any], chunks: Iterator[list[Item]], history: str | None) -> Iterator[list[Prediction]]:
    import ray

    running: dict[Any, Any] = {}  # what comes -> who makes it

    def give(actor: Any) -> None:
        chunk = next(chunks, None)
        if chunk is not None:
            running[actor.answer.remote(chunk, history)] = actor

    for actor in [*actors] * QUEUED:
        give(actor)
    while running:
        [ready], _ = ray.wait(list(running))
        give(running.pop(ready))
        yield _get(ready)


def _get(what: Any) -> Any:
    """What a worker returns; a user's mistake that it noticed is one here too."""
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return ray.get(what)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise
    except RayActorError as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(f"a worker died, maybe for want of memory; the same command goes on: {why}") from error

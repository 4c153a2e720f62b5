"""Validation of supervised training, by the scorer of `segzero eval`."""

from collections.abc import Sequence

from segzero.evaluation import metrics
from segzero.evaluation.predict import answer
from segzero.pipeline import Pipeline
from segzero.sample import Sample

ANSWERED_AT_ONCE = 64


def scores(pipeline: Pipeline, samples: Sequence[Sample]) -> dict[str, float]:
    """Figures of a pipeline on samples; each round of a dialogue is asked with its true history."""
    parts = (samples[start : start + ANSWERED_AT_ONCE] for start in range(0, len(samples), ANSWERED_AT_ONCE))
    each = [row.score for some in parts for _, row in answer(pipeline, some) if row.score is not None]
    figures = {"val/giou": metrics.giou(each), "val/ciou": metrics.ciou(each), "val/n_acc": metrics.n_acc(each)}
    return {name: value for name, value in figures.items() if value == value}  # no N-acc where all have a target

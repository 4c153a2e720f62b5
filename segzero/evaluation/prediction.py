"""One line of predictions.jsonl: what was said about a sample, what was drawn, and how it scored.

>>> line = Prediction("s1", "the cat", raw_text="<answer>[]</answer>", score=Score(0, 4, pred_empty=True)).to_line()
>>> Prediction.from_line(line).score.union
4
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from segzero.data.sample import Sample
from segzero.errors import UserError
from segzero.evaluation.benchmarks import Unreadable
from segzero.evaluation.metrics import Score
from segzero.evaluation.scoring import Predicted, Row, score_sample
from segzero.masks import RLE, encode
from segzero.result import Segmentation

# Why there is no answer at all; an answer that can't be read has one of segzero.answer.ERRORS.
FAILURES = {
    "unreadable": "the data set's record makes no sense, or its image is absent",
    "image_error": "the image can't be read, or is not what its record says",
    "policy_error": "the policy refused the request",
    "time_out": "the policy did not answer in time",
    "lost_reference": "it refers to an earlier round whose answer could not be read, or to what that did not find",
}
NOTHING_RIGHT = Score(0, 0, failed=True)  # of a record whose truth is not known


@dataclass(frozen=True)
class Prediction:
    """What became of a sample. With an `error` it is a failure, and `problem` says more where there is more to say."""

    id: str
    question: str
    raw_text: str = ""
    think: str = ""
    error: str | None = None  # one of FAILURES or of segzero.answer.ERRORS
    problem: str = ""
    objects: tuple[Predicted, ...] = ()
    score: Score | None = None  # None: the truth has no masks
    seconds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, sample: Sample, result: Segmentation) -> "Prediction":
        """What the pipeline found, scored against the truth."""
        objects = predicted(result)
        score = score_sample(sample, objects, result.error).score
        seconds = {name: round(value, 4) for name, value in result.timings.items()}
        return cls(
            sample.id,
            sample.question,
            result.raw_text,
            result.think,
            result.error,
            objects=objects,
            score=score,
            seconds=seconds,
        )

    @classmethod
    def failed(cls, item: Sample | Unreadable, error: str, problem: str) -> "Prediction":
        """There is no answer, and why."""
        assert error in FAILURES, error
        question = item.question if isinstance(item, Sample) else ""
        score = score_sample(item, (), error).score if isinstance(item, Sample) else NOTHING_RIGHT
        return cls(item.id, question, error=error, problem=problem, score=score)

    def row(self, item: Sample | Unreadable) -> Row:
        """What the figures need of it; the sample is scored anew."""
        if isinstance(item, Unreadable):
            return Row(self.id, error="unreadable", lost=True)
        return score_sample(item, self.objects, self.error)

    def to_line(self) -> str:
        """One JSON object without line breaks."""
        score = self.score
        line = {
            "id": self.id,
            "question": self.question,
            "error": self.error,
            "problem": self.problem,
            "raw_text": self.raw_text,
            "think": self.think,
            "objects": [{"box": o.box, "points": o.points, "score": o.score, "rle": o.mask} for o in self.objects],
            "intersection": score and score.intersection,
            "union": score and score.union,
            "pred_empty": score and score.pred_empty,
            "true_empty": score and score.true_empty,
            "seconds": dict(self.seconds),
        }
        return json.dumps(line, allow_nan=False)  # ASCII: a lone surrogate in an answer is no reason to stop

    @classmethod
    def from_line(cls, line: str | bytes) -> "Prediction":
        """The same again; a line that nobody wrote so is refused."""
        try:
            row = json.loads(line)
            score = None
            if row["union"] is not None:
                score = Score(
                    int(row["intersection"]),
                    int(row["union"]),
                    bool(row["pred_empty"]),
                    bool(row["true_empty"]),
                    failed=row["error"] is not None,
                )
            texts = [row[name] for name in ("id", "question", "raw_text", "think", "problem")]
            if not all(isinstance(text, str) for text in texts) or not isinstance(row["error"], str | None):
                raise ValueError("text is missing")
            if not isinstance(row["objects"], list) or not isinstance(row["seconds"], dict):
                raise ValueError("objects or seconds are missing")
            id, question, raw_text, think, problem = texts
            objects = tuple(_object(value) for value in row["objects"])
            return cls(id, question, raw_text, think, row["error"], problem, objects, score, row["seconds"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise UserError(f"it is no line of predictions: {' '.join(str(error).split())[:200]}") from error


def predicted(result: Segmentation) -> tuple[Predicted, ...]:
    """What the pipeline found, as it is scored and kept."""
    return tuple(Predicted(o.box, encode(o.mask), o.points, _finite(o.score)) for o in result.instances)


def _object(value: Mapping[str, Any]) -> Predicted:
    x0, y0, x1, y1 = (float(v) for v in value["box"])
    points = tuple((float(x), float(y)) for x, y in value["points"])
    score, mask = float(value["score"]), value["rle"]
    if not all(map(math.isfinite, (x0, y0, x1, y1, score, *(v for point in points for v in point)))):
        raise ValueError("a number is not finite")
    if mask is not None and not (isinstance(mask, dict) and mask.keys() == {"size", "counts"}):
        raise ValueError("a mask is no RLE")
    return Predicted((x0, y0, x1, y1), cast(RLE | None, mask), points, score)


def _finite(score: float) -> float:
    return float(score) if math.isfinite(score) else 0.0

"""One line of predictions.jsonl: what was said about a sample, what was drawn, and how it scored.

>>> line = Prediction("s1", "the cat", raw_text="<answer>[]</answer>", score=Score(0, 4, pred_empty=True)).to_line()
>>> Prediction.from_line(line).score.union
4
"""

import fcntl
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from segzero.errors import UserError
from segzero.evaluation.benchmarks import Item, Unreadable
from segzero.evaluation.metrics import Score
from segzero.evaluation.scoring import Predicted, Row, score_sample
from segzero.io import finite_or_zero
from segzero.masks import RLE, encode
from segzero.result import Segmentation
from segzero.sample import Sample

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
    return tuple(Predicted(o.box, encode(o.mask), o.points, finite_or_zero(o.score)) for o in result.instances)


def _object(value: Mapping[str, Any]) -> Predicted:
    x0, y0, x1, y1 = (float(v) for v in value["box"])
    points = tuple((float(x), float(y)) for x, y in value["points"])
    score, mask = float(value["score"]), value["rle"]
    if not all(map(math.isfinite, (x0, y0, x1, y1, score, *(v for point in points for v in point)))):
        raise ValueError("a number is not finite")
    if mask is not None and not (isinstance(mask, dict) and mask.keys() == {"size", "counts"}):
        raise ValueError("a mask is no RLE")
    return Predicted((x0, y0, x1, y1), cast(RLE | None, mask), points, score)


NAME = "predictions.jsonl"


class Predictions:
    """An open file of predictions. In memory are where each line begins, and what it scored."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor
        self.places: dict[str, tuple[int, int]] = {}  # id -> where its line begins, and its length
        self.ious = [0.0, 0]  # sum and count, for the running gIoU
        self.torn = 0  # bytes of an unfinished last line, dropped
        self.end = 0

    @classmethod
    def open(cls, path: Path, write: bool = True) -> "Predictions":
        """Open, or make, the file; a second process that would write to it is refused."""
        try:
            if write:
                path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT if write else os.O_RDONLY, 0o644)
        except FileNotFoundError:
            raise UserError(f"no evaluation in {path.parent}: there is no {path.name}") from None
        except OSError as error:
            raise UserError(f"cannot open {path}: {error.strerror or error}") from error
        predictions = cls(path, descriptor)
        try:
            if write:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            predictions._read_places(write)
        except BlockingIOError:
            predictions.close()
            raise UserError(
                f"{path} is being written by another process; wait for it, or choose another --out"
            ) from None
        except BaseException:
            predictions.close()
            raise
        return predictions

    def __enter__(self) -> "Predictions":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, id: object) -> bool:
        return id in self.places

    def __iter__(self) -> Iterator[Prediction]:
        return (self.get(id) for id in self.places)

    @property
    def giou(self) -> float:
        """The mean IoU of what is there, nan of nothing."""
        total, count = self.ious
        return total / count if count else float("nan")

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Add a line for each; they are on the disk when this returns."""
        for prediction in predictions:
            assert prediction.id not in self.places, prediction.id
            line = prediction.to_line().encode() + b"\n"
            try:
                written = os.pwrite(self.descriptor, line, self.end)
                if written < len(line):
                    raise OSError(f"{written} of {len(line)} bytes fitted on the disk")
            except OSError as error:
                os.ftruncate(self.descriptor, self.end)
                raise UserError(
                    f"cannot write {self.path}: {error.strerror or error}; its {len(self)} lines are whole, and the "
                    "same command goes on from there"
                ) from error
            self._note(prediction, len(line))
        os.fsync(self.descriptor)

    def get(self, id: str) -> Prediction:
        """The line of that sample."""
        start, length = self.places[id]
        return Prediction.from_line(os.pread(self.descriptor, length, start))

    def of(self, item: Item) -> Prediction:
        """The line of that item; one that is about another question is refused."""
        found = self.get(item.id)
        if found.error != "unreadable" and found.question != getattr(item, "question", ""):
            raise UserError(
                f"{self.path} is of other data: its sample {item.id!r:.80} asks {found.question!r:.80}; "
                "choose another --out, or --data as it was"
            )
        return found

    def pairs(self, items: Iterable[Item]) -> Iterator[tuple[Item, Prediction]]:
        """Each item with its line, in the data's order; all must be there, and nothing else."""
        seen = 0
        for item in items:
            if item.id not in self.places:
                raise UserError(f"{self.path} lacks the sample {item.id!r:.80}: run the same `segzero eval` to the end")
            seen += 1
            yield item, self.of(item)
        if seen < len(self):
            raise UserError(f"{self.path} has {len(self)} samples, the data {seen}: they are not of one evaluation")

    def rows(self, items: Iterable[Item]) -> Iterator[Row]:
        """Each sample scored anew from its line; nothing is asked or drawn."""
        for item, prediction in self.pairs(items):
            try:
                row = prediction.row(item)
            except UserError as error:  # a mask that is none, or of another image
                raise UserError(f"{self.path}, sample {item.id!r:.80}: {error}") from error
            yield row

    def close(self) -> None:
        """Let others write."""
        os.close(self.descriptor)

    def _read_places(self, write: bool) -> None:
        with os.fdopen(os.dup(self.descriptor), "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    self.torn = len(line)
                    break
                try:
                    prediction = Prediction.from_line(line)
                except UserError as error:
                    raise UserError(f"{self.path}, line {number}: {error}") from error
                if prediction.id in self.places:
                    raise UserError(f"{self.path}, line {number}: the sample {prediction.id!r:.80} has a line already")
                self._note(prediction, len(line))
        if write and self.torn:
            os.ftruncate(self.descriptor, self.end)

    def _note(self, prediction: Prediction, length: int) -> None:
        self.places[prediction.id] = self.end, length
        self.end += length
        if prediction.score is not None:
            self.ious[0] += prediction.score.iou
            self.ious[1] += 1

"""Answers to the samples of a benchmark; predictions.jsonl keeps each of them as a line, as soon as it is there.

>>> line = Prediction("s1", "the cat", raw_text="<answer>[]</answer>", score=Score(0, 4, pred_empty=True)).to_line()
>>> Prediction.from_line(line).score.union
4
"""

import fcntl
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from segzero.errors import UserError, one_line
from segzero.evaluation.benchmarks import Record, Unreadable
from segzero.evaluation.metrics import Score
from segzero.evaluation.scoring import PredictedObject, Row, as_decided, score_sample
from segzero.io import finite_or_zero
from segzero.masks import RLE, decode, encode
from segzero.result import InstanceMask, RefinementStep, Segmentation
from segzero.sample import Sample

PREDICTIONS = "predictions.jsonl"
# Reasons why there is no answer at all; an answer that cannot be read has one of segzero.answer.ERRORS.
FAILURES = {
    "unreadable": "the data set's record makes no sense, or its image is absent",
    "image_error": "the image can't be read, or is not what its record says",
    "policy_error": "the policy refused the request",
    "time_out": "the policy did not answer in time",
    "program_error": "its program could not be read, or failed; the problem names the line",
    "lost_reference": "it refers to an earlier round whose answer could not be read, or to what that did not find",
}
UNKNOWN_TRUTH = Score(0, 0, failed=True)  # of a record that could not be read


@dataclass(frozen=True)
class Prediction:
    """An answer to one sample. With an `error` it is a failure, and `problem` may say more about it."""

    id: str
    question: str
    raw_text: str = ""
    think: str = ""
    error: str | None = None  # one of FAILURES or of segzero.answer.ERRORS
    problem: str = ""
    objects: tuple[PredictedObject, ...] = ()
    score: Score | None = None  # None where the truth has no masks, and until the prediction is scored
    seconds: Mapping[str, float] = field(default_factory=dict)
    undivided: bool = False  # its object is one mask for all that was asked for, and the box around that mask
    rejected: bool | None = None  # whether the answer was "nothing there", if the object is drawn all the same
    steps: tuple[dict[str, Any], ...] = ()  # looks at the mask, as `RefinementStep.to_dict` writes them

    @classmethod
    def from_result(cls, sample: Sample, result: Segmentation) -> "Prediction":
        """Take over the pipeline's answer to a sample, not scored yet."""
        seconds = {name: round(value, 4) for name, value in result.timings.items()}
        objects = predicted_objects(result)
        return cls(
            sample.id,
            sample.question,
            result.raw_text,
            result.think,
            result.error,
            result.problem,
            objects=objects,
            seconds=seconds,
            rejected=result.rejected,
            steps=tuple(step.to_dict() for step in result.steps),
        )

    @classmethod
    def failed(cls, record: Record, error: str, problem: str) -> "Prediction":
        """Make the failure of a record that has no answer, not scored yet."""
        assert error in FAILURES, error
        question = record.question if isinstance(record, Sample) else ""
        return cls(record.id, question, error=error, problem=problem)

    def scored(self, record: Record) -> tuple["Prediction", Row]:
        """Score the prediction against its record; returns it with its score, and the row of the figures."""
        row = self.row(record)
        return replace(self, score=UNKNOWN_TRUTH if row.lost else row.score), row

    def row(self, record: Record) -> Row:
        """Compute the row of the figures; each call scores the sample anew."""
        if isinstance(record, Unreadable):
            return Row(self.id, error="unreadable", lost=True)
        objects = () if self.rejected and not record.objects else self.objects
        row = score_sample(record, objects, self.error, self.undivided)
        return row if self.rejected is None else as_decided(row, self.rejected)

    def result(self, sample: Sample, image: Image.Image) -> Segmentation:
        """Restore the pipeline's result from the prediction of that sample, whose image is given."""
        nothing = np.zeros((image.height, image.width), bool)
        masks = tuple(
            InstanceMask(nothing if o.mask is None else decode(o.mask, image.size), o.box, o.points, o.score)
            for o in self.objects
        )
        try:
            steps = tuple(RefinementStep.from_dict(step, image.size) for step in self.steps)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"sample {self.id!r:.80}: its steps can't be read: {one_line(error)}") from error
        answer = Segmentation(image, sample.question, masks, self.think, self.raw_text, self.error, steps=steps)
        return replace(answer, undivided=self.undivided)

    def to_line(self) -> str:
        """Write it as one JSON object without line breaks."""
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
            **({"undivided": True} if self.undivided else {}),
            **({} if self.rejected is None else {"rejected": self.rejected}),
            **({"steps": list(self.steps)} if self.steps else {}),
        }
        return json.dumps(line, allow_nan=False)  # ASCII, so that a lone surrogate in an answer can be written

    @classmethod
    def from_line(cls, line: str | bytes) -> "Prediction":
        """Read a line that `to_line` wrote; any other is refused."""
        try:
            values = json.loads(line)
            score = None
            if values["union"] is not None:
                score = Score(
                    int(values["intersection"]),
                    int(values["union"]),
                    bool(values["pred_empty"]),
                    bool(values["true_empty"]),
                    failed=values["error"] is not None,
                )
            texts = [values[name] for name in ("id", "question", "raw_text", "think", "problem")]
            if not all(isinstance(text, str) for text in texts) or not isinstance(values["error"], str | None):
                raise ValueError("text is missing")
            if not isinstance(values["objects"], list) or not isinstance(values["seconds"], dict):
                raise ValueError("objects or seconds are missing")
            id, question, raw_text, think, problem = texts
            objects = tuple(_read_object(value) for value in values["objects"])
            prediction = cls(id, question, raw_text, think, values["error"], problem, objects, score, values["seconds"])
            rejected = None if values.get("rejected") is None else values["rejected"] is True
            steps = values.get("steps", [])
            if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
                raise ValueError("steps are no list of objects")
            undivided = values.get("undivided", False) is True
            return replace(prediction, undivided=undivided, rejected=rejected, steps=tuple(steps))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise UserError(f"it is no line of predictions: {' '.join(str(error).split())[:200]}") from error


def predicted_objects(result: Segmentation) -> tuple[PredictedObject, ...]:
    """Convert the pipeline's objects to the form in which they are scored and stored; masks become RLEs here."""
    return tuple(PredictedObject(o.box, encode(o.mask), o.points, finite_or_zero(o.score)) for o in result.instances)


def _read_object(value: Mapping[str, Any]) -> PredictedObject:
    x0, y0, x1, y1 = (float(v) for v in value["box"])
    points = tuple((float(x), float(y)) for x, y in value["points"])
    score, mask = float(value["score"]), value["rle"]
    if not all(map(math.isfinite, (x0, y0, x1, y1, score, *(v for point in points for v in point)))):
        raise ValueError("a number is not finite")
    if mask is not None and not (isinstance(mask, dict) and mask.keys() == {"size", "counts"}):
        raise ValueError("a mask is not an RLE")
    return PredictedObject((x0, y0, x1, y1), cast(RLE | None, mask), points, score)


class Predictions:
    """An open predictions.jsonl. Memory holds where each line is and the running gIoU; the lines stay on the disk."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor
        self.places: dict[str, tuple[int, int]] = {}  # id -> first byte of its line, and length
        self.iou_sum, self.iou_count = 0.0, 0
        self.torn = 0  # bytes of an unfinished last line, dropped
        self.end = 0

    @classmethod
    def open(cls, path: Path, write: bool = True) -> "Predictions":
        """Open the file, or make it; a second process that would write to it is refused."""
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
        """Mean IoU of the lines so far; nan if there are none."""
        return self.iou_sum / self.iou_count if self.iou_count else float("nan")

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Add a line for each prediction; they are on the disk when this returns."""
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
        """Read the line of the sample with that id."""
        start, length = self.places[id]
        return Prediction.from_line(os.pread(self.descriptor, length, start))

    def find(self, record: Record) -> Prediction:
        """Read the line of a record; a line about another question is refused, and so is a missing one."""
        if record.id not in self.places:
            raise UserError(f"{self.path} lacks the sample {record.id!r:.80}: run the same `segzero eval` to the end")
        prediction = self.get(record.id)
        if prediction.error != "unreadable" and prediction.question != getattr(record, "question", ""):
            raise UserError(
                f"{self.path} is of other data: its sample {record.id!r:.80} asks {prediction.question!r:.80}; "
                "choose another --out, or --data as it was"
            )
        return prediction

    def score(self, record: Record) -> Row:
        """Score a record anew from its line; the policy and the segmenter are not needed."""
        prediction = self.find(record)
        try:
            return prediction.row(record)
        except UserError as error:  # its mask is malformed, or of another image
            raise UserError(f"{self.path}, sample {record.id!r:.80}: {error}") from error

    def rows(self, records: Iterable[Record]) -> Iterator[Row]:
        """Score every record anew, in order; each must have a line, and each line a record."""
        count = 0
        for count, record in enumerate(records, 1):  # noqa: B007
            yield self.score(record)
        self.check_count(count)

    def check_count(self, records: int) -> None:
        """Refuse lines beyond those of the data's records."""
        if records < len(self):
            raise UserError(f"{self.path} has {len(self)} samples, the data {records}: they are not of one evaluation")

    def close(self) -> None:
        """Close the file, so that another process may write to it."""
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
            self.iou_sum += prediction.score.iou
            self.iou_count += 1

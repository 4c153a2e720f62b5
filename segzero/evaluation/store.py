"""predictions.jsonl: a line for each finished sample, written once and whole, found again by its id.

>>> with Predictions.open(Path("out/predictions.jsonl")) as predictions:                # doctest: +SKIP
...     predictions.append([prediction])
...     predictions.get("val-17").raw_text
'<think>...'

A process that is killed leaves whole lines and at most one torn one at the end; opening the file drops that one.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from segzero.errors import UserError
from segzero.evaluation.answering import Item
from segzero.evaluation.prediction import Prediction
from segzero.evaluation.scoring import Row

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

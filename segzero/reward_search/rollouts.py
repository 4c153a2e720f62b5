"""Recorded answers of a policy, on which candidates are compared without a training: text, masks and their true IoU.

Answers are sampled afresh, or read from the `rollouts.jsonl` of a training run; masks are drawn by the segmenter. A
search keeps them in a file of its own, a line per question, so that going on needs no models:

{"sample": "tiny-1", "answers": [{"text": "<think>...", "masks": [{"size": [224, 224], "counts": "..."}]}]}
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards import Case
from segzero.answer import parse_answer
from segzero.errors import UserError
from segzero.evaluation.metrics import score_rles
from segzero.frames import Frame
from segzero.io import write_atomically
from segzero.masks import RLE, check_rle, encode, union
from segzero.pipeline import Query, in_pixels
from segzero.sample import Sample
from segzero.segmenter.protocol import MaskPrompt, enlarge

if TYPE_CHECKING:
    from segzero.pipeline import SegZeroPipeline
    from segzero.segmenter import Segmenter

MOST_TEXT = 20_000  # characters of an answer
IMAGES_AT_ONCE = 16


@dataclass(frozen=True)
class AnswerFormat:
    """The format and the coordinates in which a policy answers."""

    format: str
    frame: Frame


@dataclass(frozen=True, eq=False)
class AnswerGroup:
    """Recorded answers to one question, with the segmenter's masks of each."""

    sample: Sample
    texts: tuple[str, ...]
    masks: tuple[tuple[RLE, ...], ...]  # by answer, in pixels of the image
    written: AnswerFormat

    @cached_property
    def cases(self) -> list[Case]:
        """The answers as rewards see them."""
        return [
            Case.of_sample(text, self.sample, masks, frame=self.written.frame, format=self.written.format)
            for text, masks in zip(self.texts, self.masks, strict=True)
        ]

    @cached_property
    def ious(self) -> list[float]:
        """IoU of each answer's masks with the true ones; an answer that can't be read has 0."""
        true = self.sample.mask()
        assert true is not None, "prepare_samples lets no sample without masks through"
        return [
            score_rles(
                union(list(masks), self.sample.size), true, self.sample.ignore, failed=case.answer.error is not None
            ).iou
            for case, masks in zip(self.cases, self.masks, strict=True)
        ]


def prepare_samples(samples: Iterable[Sample], most: int) -> list[Sample]:
    """Take the first samples whose objects all have masks, and that are no later rounds of a dialogue."""
    found: list[Sample] = []
    for sample in samples:
        if len(found) == most:
            break
        if sample.mask() is not None and not sample.turns:
            found.append(sample)
    if not found:
        raise UserError("no sample has masks of all its objects; a search for rewards compares masks")
    return found


def sample_answers(pipeline: "SegZeroPipeline", samples: Sequence[Sample], each: int) -> Iterator[AnswerGroup]:
    """Ask every question `each` times, as the pipeline samples, and draw the masks of all answers."""
    from segzero.prompts import get_prompt

    written = AnswerFormat(get_prompt(pipeline.prompt_name).format, pipeline.frame)
    refuse_phrases(written)
    for begin in range(0, len(samples), IMAGES_AT_ONCE):
        some = samples[begin : begin + IMAGES_AT_ONCE]
        images = [sample.open() for sample in some]
        pairs = zip(images, some, strict=True)
        outputs = pipeline.ask([Query(image, sample.question) for image, sample in pairs for _ in range(each)])
        for place, sample in enumerate(some):
            texts = tuple(output.text[:MOST_TEXT] for output in outputs[place * each : (place + 1) * each])
            yield draw_answers(pipeline.segmenter, sample, texts, written)


def draw_answers(segmenter: "Segmenter", sample: Sample, texts: Sequence[str], written: AnswerFormat) -> AnswerGroup:
    """Draw a mask for every object of every answer to one question."""
    answers = [parse_answer(text, written.format, written.frame.extent(sample.size)) for text in texts]
    prompts = [[MaskPrompt(*in_pixels(i, written.frame, sample.size)) for i in answer.instances] for answer in answers]
    drawn: Iterator[RLE] = iter(())
    if any(prompts):
        image = segmenter.embed([sample.open()])
        [predictions] = segmenter.decode(image, [[prompt for each in prompts for prompt in each]])
        device = image.features[0].device
        drawn = (encode(enlarge(one.logits[0][None], image.sizes[0], device)[0]) for one in predictions)
    masks = tuple(tuple(next(drawn) for _ in each) for each in prompts)
    return AnswerGroup(sample, tuple(texts), masks, written)


def refuse_phrases(written: AnswerFormat) -> None:
    """Refuse a policy that answers in phrases: recorded answers are compared by boxes, points and their masks."""
    if written.format == "phrase":
        raise UserError("a search for rewards takes policies that answer in boxes and points, not in phrases")


def recorded_texts(file: Path) -> dict[str, list[str]]:
    """Texts of the best and worst answers in a run's rollouts.jsonl, by sample id; torn lines are passed over."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    found: dict[str, list[str]] = {}
    for line in lines:
        row = _read_line(line)
        texts = [part["text"][:MOST_TEXT] for name in ("best", "worst") if (part := _part(row, name))]
        if row and isinstance(row.get("sample"), str) and "notes" not in row:
            found.setdefault(row["sample"], []).extend(texts)
    groups = {id: list(dict.fromkeys(texts)) for id, texts in found.items()}
    groups = {id: texts for id, texts in groups.items() if len(texts) > 1}
    if not groups:
        raise UserError(f"{file} records no question with two different answers; is it the rollouts.jsonl of a run?")
    return groups


def _read_line(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _part(row: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    part = row.get(name)
    return part if isinstance(part, dict) and isinstance(part.get("text"), str) else None


def write_groups(file: Path, groups: Iterable[AnswerGroup]) -> None:
    """Write recorded answers, whole or not at all."""
    rows = (
        {
            "sample": group.sample.id,
            "answers": [{"text": t, "masks": list(m)} for t, m in zip(group.texts, group.masks, strict=True)],
        }
        for group in groups
    )
    write_atomically(file, b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def read_groups(file: Path, samples: Iterable[Sample], written: AnswerFormat) -> list[AnswerGroup]:
    """Read recorded answers to these samples."""
    by_id = {sample.id: sample for sample in samples}
    groups = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line)
            sample = by_id[row["sample"]]
            texts = tuple(str(answer["text"]) for answer in row["answers"])
            masks = tuple(tuple(check_rle(m, sample.size) for m in answer["masks"]) for answer in row["answers"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{file}, line {number}: no recorded answers to a sample of the data; remove it") from error
        groups.append(AnswerGroup(sample, texts, masks, written))
    return groups

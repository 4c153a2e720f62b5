"""Readers of published formats, which yield Samples one at a time. `segzero docs data` shows each format.

A new format is a file here with a function that yields its records, and a line in READERS.

>>> for sample in read("data/mine", "folder"):                    # doctest: +SKIP
...     print(sample.question, len(sample.objects))
the mug one would drink from 1

Without `problems`, the first malformed record ends the reading; with a list, it is left out and listed.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from segzero.data.readers.annotation_project import read_annotation
from segzero.data.readers.coco import read_coco
from segzero.data.readers.conver_seg import read_converseg
from segzero.data.readers.fields import Record
from segzero.data.readers.flags import read_flags
from segzero.data.readers.folder import read_folder
from segzero.data.readers.label_studio import read_label_studio
from segzero.data.readers.multi_target import read_multi_target
from segzero.data.readers.reason_seg import read_reason_seg
from segzero.data.readers.refer import read_grefcoco, read_refer
from segzero.data.readers.region_reasoner import read_region_reasoner
from segzero.data.readers.seg_llm import read_seg_llm
from segzero.data.readers.seg_zero import read_evaluation, read_training
from segzero.errors import UserError, unknown_name
from segzero.sample import Sample

READERS: dict[str, Callable[..., Iterator[Record]]] = {
    "seg_zero": read_training,
    "seg_zero_eval": read_evaluation,
    "refer": read_refer,
    "grefcoco": read_grefcoco,
    "reason_seg": read_reason_seg,
    "converseg": read_converseg,
    "folder": read_folder,
    "coco": read_coco,
    "label_studio": read_label_studio,
    "region_reasoner": read_region_reasoner,
    "seg_llm": read_seg_llm,
    "multi_target": read_multi_target,
    "flags": read_flags,
    "annotation": read_annotation,
}


def read(source: Any, format: str, problems: list[str] | None = None, **options: Any) -> Iterator[Sample]:
    """Read the Samples of a data set.

    Args:
        source: A path or a hub name, as the format's reader needs it.
        format: A name in READERS.
        problems: A list for lines about the records that are left out: malformed ones, those whose image is absent,
            and those whose id has been used already. Without it, the first of them raises a UserError.
        options: Options of the format's reader.
    """
    if format not in READERS:
        raise unknown_name("data format", format, list(READERS))
    reader = READERS[format]
    known = [name for name in inspect.signature(reader).parameters if name != "source"]
    for name in options:
        if name not in known:
            raise unknown_name(f"option of the format {format}", name, known)
    return _samples(reader(source, **options), source, problems)


def _samples(records: Iterator[Record], source: Any, problems: list[str] | None) -> Iterator[Sample]:
    seen: set[str] = set()
    record = None
    for record in records:
        try:
            samples = list(record.samples())
            repeated = [sample.id for sample in samples if sample.id in seen]
            if repeated:
                raise UserError(f"its id {repeated[0]!r:.80} has been used already; ids must differ")
        except UserError as error:
            if problems is None:
                raise UserError(f"{record.where}: {error}") from error
            problems.append(f"{record.where}: {error}")
            continue
        seen.update(sample.id for sample in samples)
        yield from samples
    if record is None:
        raise UserError(f"there are no records to read in {source}; check the path and the split")

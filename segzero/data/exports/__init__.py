"""Exports of Samples to the files of other tools. A sample that a format can't express is left out and listed.

>>> export("data/mine", "coco", "mine_coco")                                   # doctest: +SKIP
ExportSummary(samples=120, left_out=[])
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from segzero.data.check import read_folders
from segzero.data.exports.coco import CocoExport
from segzero.data.exports.conver_seg import ConverSegExport
from segzero.data.exports.fiftyone import FiftyOneExport
from segzero.data.exports.label_studio import LabelStudioExport
from segzero.data.exports.refer import ReferExport
from segzero.errors import UserError, unknown_name
from segzero.io import new_folder, write_atomically
from segzero.sample import Sample


class Export(Protocol):
    """Writer of one format into a folder."""

    def add(self, sample: Sample) -> None:
        """Add a sample and copy its image; a UserError says why the format can't express the sample."""
        ...

    def finish(self) -> None:
        """Write the files that list all samples."""
        ...


EXPORTS: dict[str, Callable[[Path], Export]] = {
    "coco": CocoExport,
    "refcoco": ReferExport,
    "converseg": ConverSegExport,
    "label-studio": LabelStudioExport,
    "fiftyone": FiftyOneExport,
}


@dataclass
class ExportSummary:
    """Number of samples that were written, and a line for each one that was left out."""

    samples: int = 0
    left_out: list[str] = field(default_factory=list)


def export(folder: str | Path, to: str, out: str | Path) -> ExportSummary:
    """Write the Samples of a folder's .parquet files in another format, with their images, into a new or empty folder.

    `out` appears when everything is written.
    """
    out = Path(out)
    if to not in EXPORTS:
        raise unknown_name("export format", to, list(EXPORTS))
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another --out, or remove it")
    summary = ExportSummary()
    with new_folder(out) as unfinished:
        writer = EXPORTS[to](unfinished)
        for _, _, sample in read_folders([folder]):
            try:
                if sample.turns:
                    raise UserError(f"{to} has no rounds of a dialogue")
                if sample.empty and sample.meta.get("count"):
                    raise UserError("its truth is a count alone")
                writer.add(sample)
                summary.samples += 1
            except UserError as error:
                summary.left_out.append(f"sample {sample.id!r:.80}: {error}")
        if not summary.samples:
            raise UserError(
                f"nothing of {folder} can be written as {to}: {summary.left_out[0] if summary.left_out else ''}"
            )
        writer.finish()
        if summary.left_out:
            write_atomically(unfinished / "left_out.txt", "".join(f"{line}\n" for line in summary.left_out).encode())
    return summary

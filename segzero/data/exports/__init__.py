"""Samples -> the files that other tools read. What a format cannot say is left out and listed, never bent.

>>> export("data/mine", "coco", "mine_coco")                                   # doctest: +SKIP
Exported(samples=120, left_out=[])
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
    """One format being written into a folder."""

    def add(self, sample: Sample) -> None:
        """Take a sample and write its pictures; a UserError says why the format cannot hold it."""
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
class Exported:
    """How many samples were written; a line for each of the others."""

    samples: int = 0
    left_out: list[str] = field(default_factory=list)


def export(folder: str | Path, to: str, out: str | Path) -> Exported:
    """Write the Samples of a folder's .parquet files in another format, with their images, into an empty folder.

    `out` appears when all is written.
    """
    out = Path(out)
    if to not in EXPORTS:
        raise unknown_name("export format", to, list(EXPORTS))
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another --out, or remove it")
    done = Exported()
    with new_folder(out) as unfinished:
        writer = EXPORTS[to](unfinished)
        for _, _, sample in read_folders([folder]):
            try:
                if sample.turns:
                    raise UserError(f"{to} has no rounds of a dialogue")
                if sample.empty and sample.meta.get("count"):
                    raise UserError("its truth is a count alone")
                writer.add(sample)
                done.samples += 1
            except UserError as error:
                done.left_out.append(f"sample {sample.id!r:.80}: {error}")
        if not done.samples:
            raise UserError(f"nothing of {folder} can be written as {to}: {done.left_out[0] if done.left_out else ''}")
        writer.finish()
        if done.left_out:
            write_atomically(unfinished / "left_out.txt", "".join(f"{line}\n" for line in done.left_out).encode())
    return done

"""Rows of a hub data set: from the hub (or its cache), from parquet files, or as `save_to_disk` left them.

All three are read as Arrow tables, one row at a time, so that images stay encoded and large nested masks become
arrays without a Python object for each pixel. A value becomes Python's when it is asked for.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segzero.data import safe_parquet
from segzero.data.readers.annotations import boolean_mask
from segzero.data.readers.pictures import image_size, inside
from segzero.errors import UserError, one_line
from segzero.frames import Size
from segzero.masks import Mask

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

LONGEST = 1 << 16  # values of a list that is no mask


class Row(Mapping[str, Any]):
    """One row of a table by the names of its columns."""

    def __init__(self, table: "pyarrow.Table", index: int) -> None:
        self.table, self.index = table, index

    def __iter__(self) -> Iterator[str]:
        return iter(self.table.column_names)

    def __len__(self) -> int:
        return self.table.num_columns

    def __contains__(self, name: object) -> bool:
        return name in self.table.column_names

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        column = self.table.column(name).slice(self.index, 1)
        if (count := sum(map(safe_parquet.values_in, column.chunks))) > LONGEST:
            raise UserError(f"its {name!r} holds {count} values; at most {LONGEST} are read")
        try:
            return column[0].as_py()
        except Exception as error:  # text that is none, dates that Python has no word for, ...
            raise UserError(f"its {name!r} can't be read: {one_line(error)}") from error

    def mask(self, name: str, size: Size) -> Mask | None:
        """A mask [H, W] of nested lists, or None; their lengths are compared with the image before they are joined."""
        import pyarrow as pa
        import pyarrow.compute as compute
        import pyarrow.types as types

        if name not in self:
            return None
        scalar = self.table.column(name)[self.index]
        if not scalar.is_valid:
            return None
        if isinstance(scalar, pa.ExtensionScalar):  # such as Array2D: what it is stored as
            scalar = scalar.value
        kind = getattr(scalar.type, "value_type", None)
        inner = getattr(kind, "value_type", None)
        if inner is None or not (types.is_boolean(inner) or types.is_integer(inner)):
            return boolean_mask(self[name], size)
        outer = scalar.values  # the H rows
        lengths = compute.unique(compute.list_value_length(outer)).to_pylist()
        if len(lengths) != 1 or outer.null_count:
            return boolean_mask(np.zeros(0), size)
        if (lengths[0], len(outer)) != size:
            return boolean_mask(np.broadcast_to(False, (len(outer), lengths[0])), size)  # says so
        return boolean_mask(outer.flatten().to_numpy(zero_copy_only=False).reshape(size[::-1]), size)


def rows(
    source: Any, split: str, needs: Sequence[str], also: Sequence[str] = ()
) -> Iterator[tuple[str, str, int, Row]]:
    """Each row with where it stands, its split, and its number in it; other columns are not read.

    `source`: a folder or .parquet file, a hub name such as "owner/name", or a `datasets.Dataset`. `needs`: columns
    that must be there; `also`: columns that may be.
    """
    counts: dict[str, int] = {}
    for name, part, table in _tables(source, split, needs, also):
        for index in range(table.num_rows):
            number = counts.setdefault(part, 0)
            counts[part] += 1
            yield f"{name}, row {number}", part, number, Row(table, index)


def image_of(row: Row, source: Any) -> bytes | Path:
    """The encoded image in a row's `image`, or the file it names inside the data set's folder."""
    return encoded(row.get("image"), source, "image")


def encoded(value: Any, source: Any, name: str) -> bytes | Path:
    """The encoded file in a column of pictures, or the path it names inside the data set's folder."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return value["bytes"]
    path = value.get("path") if isinstance(value, dict) else None
    if isinstance(path, str) and isinstance(source, str | Path) and Path(source).exists():
        root = Path(source)
        return inside(root if root.is_dir() else root.parent, path)
    raise UserError(f"its {name!r} holds no picture, nor the name of one in the data set's folder")


def _columns(name: str, has: Sequence[str], needs: Sequence[str], also: Sequence[str]) -> list[str]:
    """Those to read, of what a data set has."""
    missing = [column for column in needs if column not in has]
    if missing:
        raise UserError(f"{name} lacks the column {missing[0]!r}; it has {', '.join(has)}: is it another format?")
    return [column for column in (*needs, *also) if column in has]


def _tables(
    source: Any, split: str, needs: Sequence[str], also: Sequence[str]
) -> Iterator[tuple[str, str, "pyarrow.Table"]]:
    if isinstance(source, str | Path) and Path(source).exists() and not _is_saved(Path(source)):
        yield from _from_parquet(Path(source), split, needs, also)
        return
    for name, part, dataset in _datasets(source, split):
        columns = _columns(name, dataset.column_names, needs, also)
        yield from ((name, part, table) for table in _slices(dataset.select_columns(columns), name))


def _from_parquet(
    path: Path, split: str, needs: Sequence[str], also: Sequence[str]
) -> Iterator[tuple[str, str, "pyarrow.Table"]]:
    """Files are called as on the hub: train-00000-of-00002.parquet belongs to the split "train"."""
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    chosen = [(file, file.stem.split("-")[0]) for file in files]
    chosen = [(file, part) for file, part in chosen if split in ("", part)]
    if not chosen:
        of = f" of the split {split!r}" if split else ""
        raise UserError(f"no .parquet file{of} in {path}; check the path")
    for file, part in chosen:
        columns = _columns(str(file), safe_parquet.schema_of(file, [*needs, *also]).names, needs, also)
        yield from (
            (str(file), part, table) for table in safe_parquet.tables(file, columns, 1, partial(_pixels, source=path))
        )


def _pixels(reader: "pyarrow.parquet.ParquetFile", group: int, rows: int, source: Path) -> int:
    """Of all images in a group of rows; a mask has no more values than its image has pixels."""
    import pyarrow as pa

    total = safe_parquet.FREE  # masks of another size are the reader's to refuse
    for batch in reader.iter_batches(1, [group], ["image"], use_threads=False):
        with suppress(UserError):
            total += math.prod(image_size(image_of(Row(pa.Table.from_batches([batch]), 0), source)))
    return total


def _datasets(source: Any, split: str) -> Iterator[tuple[str, str, Any]]:
    """Each `datasets.Dataset` with its name and its split."""
    if not isinstance(source, str | Path):
        if not hasattr(source, "with_format"):
            raise UserError(f"a data set is a path, a hub name or a datasets.Dataset, not {type(source).__name__}")
        found, name = source, "the data set"
    elif Path(source).exists():
        found, name = _saved(Path(source)), str(source)
    else:
        found, name = _from_hub(str(source), split), str(source)
    if not isinstance(found, dict):
        yield name, split or str(getattr(found, "split", None) or ""), found
        return
    if split and split not in found:
        raise UserError(f"{name} has no split {split!r}; it has {', '.join(found)}")
    yield from ((f"{name} ({part})", part, dataset) for part, dataset in found.items() if split in ("", part))


def _is_saved(path: Path) -> bool:
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _saved(path: Path) -> Any:
    from datasets import load_from_disk

    try:
        return load_from_disk(str(path))
    except Exception as error:  # whatever a damaged folder brings about in that library
        raise UserError(f"cannot read {path}: {one_line(error)}") from error


def _from_hub(name: str, split: str) -> Any:
    from datasets import load_dataset

    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"no such file or folder: {name}; check the path")
    try:
        return load_dataset(name, split=split or None)  # once fetched, it is read from the cache, offline too
    except Exception as error:  # no network, no such name, no such split: each its own exception
        raise UserError(f"cannot get {name} from the hub or its cache: {one_line(error)}") from error


def _slices(dataset: Any, name: str) -> Iterator["pyarrow.Table"]:
    """A table for each row; offsets that lead out of the file are found before they are followed."""
    try:
        for table in dataset.with_format("arrow").iter(1):
            table.validate(full=True)
            yield table
    except Exception as error:
        raise UserError(f"cannot read {name}: it is damaged: {one_line(error)}") from error

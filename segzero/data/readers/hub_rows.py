"""Rows of a hub data set: from the hub or its cache, from parquet files, or from a `save_to_disk` folder.

All three are read as Arrow tables, one row at a time, so that images stay encoded and large nested masks become arrays
without a Python object per pixel. A value is converted to Python when it is accessed.
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

MAX_VALUES = 1 << 16  # values of a list that is not a mask


class HubRow(Mapping[str, Any]):
    """Row of a table, as a mapping from column names to values."""

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
        if (count := sum(map(safe_parquet.values_in, column.chunks))) > MAX_VALUES:
            raise UserError(f"its {name!r} holds {count} values; at most {MAX_VALUES} are read")
        try:
            return column[0].as_py()
        except Exception as error:  # invalid UTF-8, dates out of Python's range, ...
            raise UserError(f"its {name!r} can't be read: {one_line(error)}") from error

    def mask(self, name: str, size: Size) -> Mask | None:
        """Get a mask [H, W] of nested lists, or None; their lengths are checked before they are joined."""
        import pyarrow as pa
        import pyarrow.compute as compute
        import pyarrow.types as types

        if name not in self:
            return None
        scalar = self.table.column(name)[self.index]
        if not scalar.is_valid:
            return None
        if isinstance(scalar, pa.ExtensionScalar):  # such as Array2D, which is stored as nested lists
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
            stand_in = np.broadcast_to(False, (len(outer), lengths[0]))  # takes no memory; the error names both sizes
            return boolean_mask(stand_in, size)
        return boolean_mask(outer.flatten().to_numpy(zero_copy_only=False).reshape(size[::-1]), size)


def rows(
    source: Any, split: str, needs: Sequence[str], also: Sequence[str] = ()
) -> Iterator[tuple[str, str, int, HubRow]]:
    """Read rows, each with its place for messages, its split and its number in the split.

    Args:
        source: A folder or .parquet file, a hub name such as "owner/name", or a `datasets.Dataset`.
        split: The split to read; empty reads all.
        needs: Columns that must be there.
        also: Columns that may be there. Other columns are not read.
    """
    counts: dict[str, int] = {}
    for name, part, table in _tables(source, split, needs, also):
        for index in range(table.num_rows):
            number = counts.setdefault(part, 0)
            counts[part] += 1
            yield f"{name}, row {number}", part, number, HubRow(table, index)


def image_of(row: HubRow, source: Any) -> bytes | Path:
    """Get the encoded image in a row's `image`, or the path of the file that it names in the data set's folder."""
    return image_file(row.get("image"), source, "image")


def image_file(value: Any, source: Any, name: str) -> bytes | Path:
    """Get the encoded file in a value of an image column, or the path that it names in the data set's folder."""
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
    """The columns to read, of those that a data set has."""
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
    """Read parquet files that are named as on the hub: train-00000-of-00002.parquet belongs to the split "train"."""
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    chosen = [(file, file.stem.split("-")[0]) for file in files]
    chosen = [(file, part) for file, part in chosen if split in ("", part)]
    if not chosen:
        of = f" of the split {split!r}" if split else ""
        raise UserError(f"no .parquet file{of} in {path}; check the path")
    for file, part in chosen:
        columns = _columns(str(file), safe_parquet.schema_of(file, [*needs, *also]).names, needs, also)
        tables = safe_parquet.tables(file, columns, 1, partial(_pixel_count, source=path))
        yield from ((str(file), part, table) for table in tables)


def _pixel_count(reader: "pyarrow.parquet.ParquetFile", group: int, rows: int, source: Path) -> int:
    """Number of pixels of all images in a group of rows: the bound of the values of its masks."""
    import pyarrow as pa

    total = safe_parquet.FREE  # so that masks of another size than their image reach the reader, which refuses them
    for batch in reader.iter_batches(1, [group], ["image"], use_threads=False):
        with suppress(UserError):
            total += math.prod(image_size(image_of(HubRow(pa.Table.from_batches([batch]), 0), source)))
    return total


def _datasets(source: Any, split: str) -> Iterator[tuple[str, str, Any]]:
    """Open each `datasets.Dataset`, with its name and its split."""
    if not isinstance(source, str | Path):
        if not hasattr(source, "with_format"):
            raise UserError(f"a data set is a path, a hub name or a datasets.Dataset, not {type(source).__name__}")
        opened, name = source, "the data set"
    elif Path(source).exists():
        opened, name = _saved(Path(source)), str(source)
    else:
        opened, name = _from_hub(str(source), split), str(source)
    if not isinstance(opened, dict):
        yield name, split or str(getattr(opened, "split", None) or ""), opened
        return
    if split and split not in opened:
        raise UserError(f"{name} has no split {split!r}; it has {', '.join(opened)}")
    yield from ((f"{name} ({part})", part, dataset) for part, dataset in opened.items() if split in ("", part))


def _is_saved(path: Path) -> bool:
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _saved(path: Path) -> Any:
    from datasets import load_from_disk

    try:
        return load_from_disk(str(path))
    except Exception as error:  # a damaged folder makes that library raise nearly anything
        raise UserError(f"cannot read {path}: {one_line(error)}") from error


def _from_hub(name: str, split: str) -> Any:
    from datasets import load_dataset

    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"no such file or folder: {name}; check the path")
    try:
        return load_dataset(name, split=split or None)  # later calls read it from the cache, offline too
    except Exception as error:  # no network, no such name and no such split raise different exceptions
        raise UserError(f"cannot get {name} from the hub or its cache: {one_line(error)}") from error


def _slices(dataset: Any, name: str) -> Iterator["pyarrow.Table"]:
    """Read a table per row; offsets that point out of the file are found before they are followed."""
    try:
        for table in dataset.with_format("arrow").iter(1):
            table.validate(full=True)
            yield table
    except Exception as error:
        raise UserError(f"cannot read {name}: it is damaged: {one_line(error)}") from error

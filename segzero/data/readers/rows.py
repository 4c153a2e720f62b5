"""Rows of a hub data set: from the hub (or its cache), from parquet files, or as `save_to_disk` left them.

All three are read as Arrow tables, a few rows at a time, so that images stay encoded and large nested masks
become arrays without a Python object for each pixel.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzero.data.readers.pictures import inside
from segzero.errors import UserError

if TYPE_CHECKING:
    import pyarrow

AT_ONCE = 8  # rows in memory; a nested boolean mask of a photo has millions of values

Row = dict[str, Any]


def rows(source: Any, split: str, needs: Sequence[str]) -> Iterator[tuple[str, str, int, Row]]:
    """Each row with where it stands, its split, and its number in it. `needs`: columns that must be there.

    `source`: a folder or .parquet file, a hub name such as "owner/name", or a `datasets.Dataset`.
    """
    counts: dict[str, int] = {}
    for name, part, table in _tables(source, split):
        missing = [column for column in needs if column not in table.column_names]
        if missing:
            has = ", ".join(table.column_names)
            raise UserError(f"{name} lacks the column {missing[0]!r}; it has {has}: is it another format?")
        for index in range(table.num_rows):
            number = counts.setdefault(part, 0)
            counts[part] += 1
            row = {column: _value(table.column(column)[index]) for column in table.column_names}
            yield f"{name}, row {number}", part, number, row


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


def _tables(source: Any, split: str) -> Iterator[tuple[str, str, "pyarrow.Table"]]:
    if not isinstance(source, str | Path):
        if not hasattr(source, "with_format"):
            raise UserError(f"a data set is a path, a hub name or a datasets.Dataset, not {type(source).__name__}")
        yield from _of_splits(source, "the data set", split)
        return
    path = Path(source)
    if not path.exists():
        yield from _from_hub(str(source), split)
    elif (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        yield from _saved(path, split)
    else:
        yield from _from_parquet(path, split)


def _from_parquet(path: Path, split: str) -> Iterator[tuple[str, str, "pyarrow.Table"]]:
    """Files are called as on the hub: train-00000-of-00002.parquet belongs to the split "train"."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    chosen = [(file, file.stem.split("-")[0]) for file in files]
    chosen = [(file, part) for file, part in chosen if split in ("", part)]
    if not chosen:
        of = f" of the split {split!r}" if split else ""
        raise UserError(f"no .parquet file{of} in {path}; check the path")
    for file, part in chosen:
        try:
            with pq.ParquetFile(file) as reader:
                for batch in reader.iter_batches(AT_ONCE):
                    yield str(file), part, pa.Table.from_batches([batch])
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"cannot read {file}: it is no whole parquet file") from error


def _saved(path: Path, split: str) -> Iterator[tuple[str, str, "pyarrow.Table"]]:
    from datasets import load_from_disk

    try:
        found = load_from_disk(str(path))
    except Exception as error:  # whatever a damaged folder brings about in that library
        raise UserError(f"cannot read {path}: {_line(error)}") from error
    yield from _of_splits(found, str(path), split)


def _from_hub(name: str, split: str) -> Iterator[tuple[str, str, "pyarrow.Table"]]:
    from datasets import load_dataset

    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"no such file or folder: {name}; check the path")
    try:
        found = load_dataset(name, split=split or None)  # once fetched, it is read from the cache, offline too
    except Exception as error:  # no network, no such name, no such split: each its own exception
        raise UserError(f"cannot get {name} from the hub or its cache: {_line(error)}") from error
    yield from _of_splits(found, name, split)


def _of_splits(found: Any, name: str, split: str) -> Iterator[tuple[str, str, "pyarrow.Table"]]:
    if not isinstance(found, dict):
        yield from _from_datasets(found, name, split)
        return
    if split and split not in found:
        raise UserError(f"{name} has no split {split!r}; it has {', '.join(found)}")
    for part, dataset in found.items():
        if split in ("", part):
            yield from _from_datasets(dataset, f"{name} ({part})", part)


def _from_datasets(dataset: Any, name: str, split: str) -> Iterator[tuple[str, str, "pyarrow.Table"]]:
    part = split or str(getattr(dataset, "split", None) or "")
    for table in dataset.with_format("arrow").iter(AT_ONCE):
        yield name, part, table


def _value(scalar: "pyarrow.Scalar") -> Any:
    """A value as Python has it, but [H, W] lists of booleans or integers as an array."""
    import pyarrow.compute as compute
    import pyarrow.types as types

    kind = getattr(scalar.type, "value_type", None)
    inner = getattr(kind, "value_type", None)
    if inner is None or not scalar.is_valid or not (types.is_boolean(inner) or types.is_integer(inner)):
        return scalar.as_py()
    outer = scalar.values  # the H rows
    lengths = compute.list_value_length(outer).unique().to_pylist()
    values = outer.flatten()
    if len(lengths) != 1 or not lengths[0] or outer.null_count or values.null_count:
        return scalar.as_py()  # not a rectangle: its reader says so
    return values.to_numpy(zero_copy_only=False).reshape(len(outer), lengths[0])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

"""Parquet files from anywhere: the columns that are asked for, a few rows at a time, counted before they are decoded.

>>> for table in tables(Path("train.parquet"), ["image", "question"], 100, lambda *_: 1000):       # doctest: +SKIP
...     print(table.num_rows)

A file of two kilobytes can hold lists of a hundred million values, which become gigabytes. How many there are stands
in its footer.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segzero.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

FREE = 1 << 22  # values of a column of lists that are read in any case

Allowed = Callable[["pyarrow.parquet.ParquetFile", int], int]  # file and number of a group of rows -> values


def schema_of(file: Path, columns: Sequence[str]) -> "pyarrow.Schema":
    """Names and types of all columns; the ones to be read may each be there once."""
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except FileNotFoundError:
        raise UserError(f"no such file: {file}; check the path") from None
    except Exception as error:  # hostile bytes bring about nearly everything in that library
        raise UserError(f"cannot read {file}: it is no whole parquet file") from error
    twice = [name for name in columns if schema.names.count(name) > 1]
    if twice:
        raise UserError(f"{file} has the column {twice[0]!r} more than once; write it anew with one of them")
    return schema


def tables(file: Path, columns: Sequence[str], at_once: int, allowed: Allowed) -> Iterator["pyarrow.Table"]:
    """The rows as Arrow tables of so many; the columns are those of a file that `schema_of` has looked at.

    `allowed`: how many values a column of lists may hold in a group of rows, if it has more than FREE. One with still
    more is refused.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = 0
    try:
        with pq.ParquetFile(file) as reader:
            for group in range(reader.num_row_groups):
                _check(reader, group, columns, allowed, file)
                # One thread: several need longer for a few rows.
                for batch in reader.iter_batches(at_once, [group], columns, use_threads=False):
                    yield pa.Table.from_batches([batch])
                    done += batch.num_rows
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot read {file} after row {done}: the file is damaged") from error


def values_in(array: "pyarrow.Array") -> int:
    """How many values the lists of an array hold, in all: each becomes an object in Python.

    >>> import pyarrow as pa
    >>> values_in(pa.array([[[1, 2], []], [[3]]]))  # three lists with three numbers
    6
    """
    array = getattr(array, "storage", array)  # of an extension
    if not hasattr(array, "flatten"):
        return 0
    flat = array.flatten()
    return sum(map(values_in, flat)) if isinstance(flat, list) else len(flat) + values_in(flat)  # a list: of a struct


def _check(
    reader: "pyarrow.parquet.ParquetFile", group: int, columns: Sequence[str], allowed: Allowed, file: Path
) -> None:
    found = reader.metadata.row_group(group)
    for place in range(found.num_columns):
        leaf = found.column(place)
        name = leaf.path_in_schema.split(".")[0]
        is_long = name in columns and leaf.num_values > max(FREE, found.num_rows)
        if is_long and leaf.num_values > (most := allowed(reader, group)):
            raise UserError(
                f"{file}: its column {name!r} holds {leaf.num_values} values in {found.num_rows} rows; "
                f"at most {most} are read"
            )

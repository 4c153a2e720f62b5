"""Parquet files from anywhere: the columns that are asked for, a few rows at a time, counted before they are decoded.

>>> for table in tables(Path("train.parquet"), ["image", "question"], 100, lambda *_: 1000):       # doctest: +SKIP
...     print(table.num_rows)

A file of two kilobytes can hold lists of a hundred million values, which become gigabytes. How many there are stands
in its footer.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segzero.data.footer import groups_of, values_of
from segzero.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

FREE = 1 << 22  # values of a column of lists that are read in any case

Allowed = Callable[["pyarrow.parquet.ParquetFile", int, int], int]  # file, number and rows of a group -> values


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
        groups = groups_of(file)
        with pq.ParquetFile(file) as reader, file.open("rb") as opened:
            leaves = [reader.schema.column(place) for place in range(len(reader.schema))]
            names = [leaf.path.split(".")[0] for leaf in leaves]
            lists = [
                place for place, leaf in enumerate(leaves) if leaf.max_repetition_level and names[place] in columns
            ]
            if len(groups) != reader.num_row_groups or {len(group.columns) for group in groups} - {len(leaves)}:
                raise ValueError("two readings of the footer differ")
            for number, group in enumerate(groups):
                for place in lists:
                    count = max(group.columns[place].values, values_of(opened, group.columns[place]))
                    if count > FREE and count > (most := allowed(reader, number, group.rows)):
                        raise UserError(
                            f"{file}: its column {names[place]!r} holds {count} values in {group.rows} rows; "
                            f"at most {most} are read"
                        )
                # One thread: several need longer for a few rows.
                for batch in reader.iter_batches(at_once, [number], columns, use_threads=False):
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

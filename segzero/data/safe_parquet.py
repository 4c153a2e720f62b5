"""Reading of parquet files of any origin: chosen columns, a few rows at a time, counted before they are decoded.

>>> for table in tables(Path("train.parquet"), ["image", "question"], 100, lambda *_: 1000):       # doctest: +SKIP
...     print(table.num_rows)

A file of two kilobytes can hold lists of a hundred million values, which become gigabytes. Their number is in its
footer and in the heads of its pages.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from segzero.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

FREE = 1 << 22  # values of a column of lists that are always read

Allowed = Callable[["pyarrow.parquet.ParquetFile", int, int], int]  # file, number and rows of a group -> values


def schema_of(file: Path, columns: Sequence[str]) -> "pyarrow.Schema":
    """Read names and types of all columns; refuse a file in which one of `columns` appears twice."""
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except FileNotFoundError:
        raise UserError(f"no such file: {file}; check the path") from None
    except Exception as error:  # hostile bytes cause nearly every exception in that library
        raise UserError(f"cannot read {file}: it is not a whole parquet file") from error
    twice = [name for name in columns if schema.names.count(name) > 1]
    if twice:
        raise UserError(f"{file} has the column {twice[0]!r} more than once; write it anew with one of them")
    return schema


def tables(file: Path, columns: Sequence[str], at_once: int, allowed: Allowed) -> Iterator["pyarrow.Table"]:
    """Read the rows of a file that `schema_of` has checked, as Arrow tables of `at_once` rows.

    `allowed` gives the number of values that a column of lists may have in a group of rows, if it has more than FREE; a
    column with more is refused.
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
                # One thread: several take longer for a few rows.
                for batch in reader.iter_batches(at_once, [number], columns, use_threads=False):
                    yield pa.Table.from_batches([batch])
                    done += batch.num_rows
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot read {file} after row {done}: the file is damaged") from error


def values_in(array: "pyarrow.Array") -> int:
    """Count the values in an array's lists, at all depths: each becomes an object in Python.

    >>> import pyarrow as pa
    >>> values_in(pa.array([[[1, 2], []], [[3]]]))  # three lists with three numbers
    6
    """
    array = getattr(array, "storage", array)  # of an extension type
    if not hasattr(array, "flatten"):
        return 0
    flat = array.flatten()
    return sum(map(values_in, flat)) if isinstance(flat, list) else len(flat) + values_in(flat)  # a list: a struct's


MAGIC = b"PAR1"
LONGEST = 1 << 24  # bytes of the footer; a thousand groups of rows take one million
HEAD = 1 << 16  # bytes of a page's head; it may hold the smallest and the largest value
BOOLS, BYTE, INTEGERS, DOUBLE, BYTES, LISTS, MAP, STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 11, 12


class Column(NamedTuple):
    """Values of a column in a group of rows, without the lists and structs around them."""

    values: int  # according to the footer
    begin: int  # place of its pages in the file
    length: int


class RowGroup(NamedTuple):
    """A group of rows in a file."""

    rows: int
    columns: list[Column]


def groups_of(file: Path) -> list[RowGroup]:
    """Read the groups of rows from the footer; ValueError or LookupError if it isn't one."""
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(max(0, size - 8))
        end = opened.read(8)
        length = int.from_bytes(end[:4], "little")
        if end[4:] != MAGIC or length > min(LONGEST, size - 8):
            raise ValueError("there is no footer of a sensible size")
        opened.seek(size - 8 - length)
        footer = _Thrift(opened.read(length)).struct()
    return [RowGroup(group[3], [_column(chunk[3]) for chunk in group[1]]) for group in footer[4]]


def _column(fields: dict[int, Any]) -> Column:
    return Column(fields[5], fields.get(11) or fields[9], fields[7])  # a dictionary page, if any, comes first


def values_of(opened: BinaryIO, column: Column) -> int:
    """Count a column's values by the heads of its pages: Arrow decodes whole pages, whatever the footer says."""
    count, at = 0, column.begin
    while at < column.begin + column.length:
        opened.seek(at)
        thrift = _Thrift(opened.read(HEAD))
        head = thrift.struct()
        data = head.get(5) or head.get(8) or {1: 0}  # a page of version 1 or 2; a dictionary page is neither
        if min(head[3], data[1]) < 0:
            raise ValueError("a page of negative size")
        count += data[1]
        at += thrift.at + head[3]
    return count


class _Thrift:
    """Reader of Thrift's compact protocol; a struct becomes a dict by field number."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    def struct(self) -> dict[int, Any]:
        """Read a struct."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._read(1)[0]:
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number] = kind == BOOLS[0] if kind in BOOLS else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind == STRUCT:
            return self.struct()
        if kind in INTEGERS:
            return self._integer()
        if kind == BYTES:
            return self._read(self._count())
        if kind in LISTS:
            head = self._read(1)[0]
            size = head >> 4 if head >> 4 < 15 else self._count()
            return [self._value(head & 15) for _ in range(size)]
        if kind == MAP:
            size = self._count()
            kinds = self._read(1)[0] if size else 0
            return [(self._value(kinds >> 4), self._value(kinds & 15)) for _ in range(size)]
        if kind in (*BOOLS, BYTE, DOUBLE):
            return self._read(8 if kind == DOUBLE else 1)
        raise ValueError(f"{kind} is not a kind of value")

    def _count(self) -> int:
        """Read an unsigned integer: seven bits per byte, the lowest first."""
        number = 0
        for place in range(0, 70, 7):
            byte = self._read(1)[0]
            number |= (byte & 127) << place
            if byte < 128:
                return number
        raise ValueError("a number does not end")

    def _integer(self) -> int:
        """Read a signed integer: 0, -1, 1, -2, ... are written as 0, 1, 2, 3, ..."""
        number = self._count()
        return (number >> 1) ^ -(number & 1)

    def _read(self, count: int) -> bytes:
        self.at += count
        if self.at > len(self.raw):
            raise ValueError("it ends too early")
        return self.raw[self.at - count : self.at]

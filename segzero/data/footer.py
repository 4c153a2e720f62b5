"""How many rows and values a parquet file holds, by its footer and by its pages, before Arrow decodes any.

>>> groups_of(Path("train.parquet"))[0].rows                                                   # doctest: +SKIP
100

pyarrow tells what the footer says too, but where that is damaged it ends the whole process instead of raising.
"""

from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

MAGIC = b"PAR1"
LONGEST = 1 << 24  # bytes of the footer; a thousand groups of rows take one million
HEAD = 1 << 16  # bytes of a page's head; it may hold the smallest and the largest value
BOOLS, BYTE, INTEGERS, DOUBLE, BYTES, LISTS, MAP, STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 11, 12


class Column(NamedTuple):
    """The values of a column in a group of rows, without the lists and structs around them."""

    values: int  # as the footer says
    begin: int  # where its pages are in the file
    length: int


class Group(NamedTuple):
    """A group of rows."""

    rows: int
    columns: list[Column]


def groups_of(file: Path) -> list[Group]:
    """The groups of rows; a ValueError or LookupError where the footer is none."""
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(max(0, size - 8))
        end = opened.read(8)
        length = int.from_bytes(end[:4], "little")
        if end[4:] != MAGIC or length > min(LONGEST, size - 8):
            raise ValueError("there is no footer of a sensible size")
        opened.seek(size - 8 - length)
        footer = _Thrift(opened.read(length)).struct()
    return [Group(group[3], [_column(chunk[3]) for chunk in group[1]]) for group in footer[4]]


def _column(told: dict[int, Any]) -> Column:
    return Column(told[5], told.get(11) or told[9], told[7])  # the pages begin with the dictionary, where there is one


def values_of(opened: BinaryIO, column: Column) -> int:
    """Count a column's values by the heads of its pages: Arrow decodes a page whole, whatever the footer says."""
    found, at = 0, column.begin
    while at < column.begin + column.length:
        opened.seek(at)
        thrift = _Thrift(opened.read(HEAD))
        head = thrift.struct()
        data = head.get(5) or head.get(8) or {1: 0}  # of the first and second version; a dictionary is neither
        if min(head[3], data[1]) < 0:
            raise ValueError("a page of negative size")
        found += data[1]
        at += thrift.at + head[3]
    return found


class _Thrift:
    """Values in Thrift's compact protocol; a struct is a dict by the numbers of its fields."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._take(1)[0]:
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
            return self._take(self._count())
        if kind in LISTS:
            head = self._take(1)[0]
            size = head >> 4 if head >> 4 < 15 else self._count()
            return [self._value(head & 15) for _ in range(size)]
        if kind == MAP:
            size = self._count()
            kinds = self._take(1)[0] if size else 0
            return [(self._value(kinds >> 4), self._value(kinds & 15)) for _ in range(size)]
        if kind in (*BOOLS, BYTE, DOUBLE):
            return self._take(8 if kind == DOUBLE else 1)
        raise ValueError(f"{kind} is no kind of value")

    def _count(self) -> int:
        """Seven bits a byte, the lowest first."""
        found = 0
        for place in range(0, 70, 7):
            byte = self._take(1)[0]
            found |= (byte & 127) << place
            if byte < 128:
                return found
        raise ValueError("a number does not end")

    def _integer(self) -> int:
        """0, -1, 1, -2, ... are written as 0, 1, 2, 3, ..."""
        found = self._count()
        return (found >> 1) ^ -(found & 1)

    def _take(self, count: int) -> bytes:
        self.at += count
        if self.at > len(self.raw):
            raise ValueError("it ends too early")
        return self.raw[self.at - count : self.at]

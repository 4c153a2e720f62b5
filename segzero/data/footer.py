"""The footer of a parquet file: how many rows and values there are, before Arrow decodes any.

>>> groups_of(Path("train.parquet"))[0]                                                        # doctest: +SKIP
Group(rows=100, values=[100, 100, 30720000])

pyarrow tells these numbers too, but where a footer is damaged it ends the whole process instead of raising.
"""

from pathlib import Path
from typing import Any, NamedTuple

MAGIC = b"PAR1"
LONGEST = 1 << 24  # bytes; a thousand groups of rows take one million
BOOLS, BYTE, INTEGERS, DOUBLE, BYTES, LISTS, MAP, STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 11, 12


class Group(NamedTuple):
    """A group of rows: how many, and the count of values in each column without the lists and structs around it."""

    rows: int
    values: list[int]


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
    return [Group(group[3], [column[3][5] for column in group[1]]) for group in footer[4]]


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

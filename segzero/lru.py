"""A cache that holds the values used most recently, up to a number of bytes.

>>> cache = LRUCache(10, len)
>>> cache.put("a", b"12345")
>>> cache.put("b", b"123456")
>>> cache.get("a"), cache.get("b"), cache.held
(None, b'123456', 6)
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LRUCache(Generic[T]):
    """Values by name; those not used for longest are dropped first. For one thread at a time."""

    def __init__(self, limit: int, size_of: Callable[[T], int]) -> None:
        self.limit, self.size_of = limit, size_of  # bytes; a value's bytes
        self.held = 0  # bytes of all values
        self._values: OrderedDict[str, T] = OrderedDict()

    def get(self, key: str) -> T | None:
        """The value of that name, which then counts as used; None if it is not held."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: str, value: T) -> None:
        """Hold a value; one that is larger than the limit is not kept."""
        if key in self._values:
            self.held -= self.size_of(self._values.pop(key))
        self._values[key] = value
        self.held += self.size_of(value)
        while self.held > self.limit:
            self.held -= self.size_of(self._values.popitem(last=False)[1])

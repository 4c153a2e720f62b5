"""The dialogues that clients hold: each is its creator's, and forgotten when nobody uses it for a while."""

import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from segzero.dialogue import Dialogue
from segzero.serving.errors import Problem
from segzero.serving.limits import Limits
from segzero.serving.model_pool import Answering

SMALLEST_SHARE = 4  # parts of all dialogues, however many owners there are: not all of them come at once


@dataclass(eq=False)
class Kept:
    """One dialogue. Its lock is held by whoever takes a step in it."""

    dialogue: Dialogue
    file: bytes  # its image, as it came
    owner: str
    chosen: Answering
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    steps: int = 0  # that undo could take back
    used: float = field(default_factory=time.monotonic)
    left: bool = False  # nobody looks at it any more
    alone: threading.Lock = field(default_factory=threading.Lock)

    @property
    def size(self) -> int:
        """Bytes of its image, as it came and decoded."""
        width, height = self.dialogue.registry.size
        return len(self.file) + 3 * width * height


class Dialogues:
    """Dialogues of all owners, each with at most a fair share of them. For the event loop's thread alone."""

    def __init__(self, limits: Limits, owners: int = 1) -> None:
        self.limits = limits
        self.share = max(1, limits.dialogues // max(1, min(owners, SMALLEST_SHARE)))
        self._kept: dict[str, Kept] = {}  # the least recently used first

    def __len__(self) -> int:
        return len(self._kept)

    def room(self, owner: str, size: int = 0) -> list[Kept]:
        """Refuse one more dialogue of `size` bytes, before work is spent on it; gives those left that make room."""
        self._forget()
        own = [kept for kept in self._kept.values() if kept.owner == owner]
        gone = _make_room(own, lambda stay: len(stay) < self.share)
        if gone is None:
            said = f"you have {self.share} dialogues open, which is your share; delete one, or wait"
            raise self._full(own, said)
        others = [kept for kept in self._kept.values() if kept not in gone]
        more = _make_room(others, lambda stay: len(stay) < self.limits.dialogues and self._fits(stay, size))
        if more is None:
            said = f"{len(self._kept)} dialogues are open, which is all there is room for; delete one, or wait"
            raise self._full(list(self._kept.values()), said)
        return gone + more

    def add(self, dialogue: Dialogue, file: bytes, owner: str, chosen: Answering) -> Kept:
        """Keep a dialogue for whoever made it."""
        kept = Kept(dialogue, file, owner, chosen)
        for gone in self.room(owner, kept.size):
            del self._kept[gone.id]
        self._kept[kept.id] = kept
        return kept

    def find(self, id: str, owner: str) -> Kept:
        """The dialogue of that name; another's is as if it did not exist."""
        self._forget()
        kept = self._kept.get(id)
        if kept is None or kept.owner != owner:
            raise Problem(404, "no_dialogue", "no such dialogue of yours; it may have expired")
        kept.used, kept.left = time.monotonic(), False
        self._kept[id] = self._kept.pop(id)
        return kept

    def leave(self, id: str, owner: str) -> None:
        """Its client may come back, but has no right to its place any more."""
        self.find(id, owner).left = True

    def drop(self, id: str, owner: str) -> None:
        """Forget it."""
        self.find(id, owner)
        del self._kept[id]

    def _forget(self) -> None:
        limit = time.monotonic() - self.limits.idle
        for id in [id for id, kept in self._kept.items() if kept.used < limit and not kept.alone.locked()]:
            del self._kept[id]

    def _fits(self, others: list[Kept], size: int) -> bool:
        """Whether one of `size` bytes may be kept beside others; a single one always may."""
        return not others or sum(kept.size for kept in others) + size <= self.limits.dialogue_bytes

    def _full(self, those: list[Kept], said: str) -> Problem:
        again = max(1, math.ceil(those[0].used + self.limits.idle - time.monotonic()))
        return Problem(429, "too_many_dialogues", said, {"Retry-After": str(again)})


def _make_room(kept: list[Kept], enough: Callable[[list[Kept]], bool]) -> list[Kept] | None:
    """The fewest of those left, oldest first, without which there is room; None if there is none without all."""
    left = [each for each in kept if each.left and not each.alone.locked()]
    for count in range(len(left) + 1):
        if enough([each for each in kept if each not in left[:count]]):
            return left[:count]
    return None

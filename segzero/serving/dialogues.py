"""The dialogues that clients hold: each is its creator's, and forgotten when nobody uses it for a while."""

import math
import secrets
import threading
import time
from dataclasses import dataclass, field

from segzero.dialogue import Dialogue
from segzero.serving.limits import Limits
from segzero.serving.problems import Problem
from segzero.serving.sharing import Answering


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


class Dialogues:
    """For the event loop's thread alone."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._kept: dict[str, Kept] = {}  # the least recently used first

    def __len__(self) -> int:
        return len(self._kept)

    def room(self) -> None:
        """Refuse one more dialogue, before work is spent on it."""
        self._forget()
        if self._full() and not self._left():
            oldest = next(iter(self._kept.values()))
            again = str(max(1, math.ceil(oldest.used + self.limits.idle - time.monotonic())))
            said = f"{self.limits.dialogues} dialogues are open, which is all there is room for; delete one, or wait"
            raise Problem(429, "too_many_dialogues", said, {"Retry-After": again})

    def add(self, dialogue: Dialogue, file: bytes, owner: str, chosen: Answering) -> Kept:
        """Keep a dialogue for whoever made it."""
        self.room()
        if self._full():
            del self._kept[self._left()[0].id]
        kept = Kept(dialogue, file, owner, chosen)
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

    def _full(self) -> bool:
        return len(self._kept) >= self.limits.dialogues

    def _left(self) -> list[Kept]:
        return [kept for kept in self._kept.values() if kept.left and not kept.alone.locked()]

"""Dialogues of clients: each belongs to the token that created it, and expires when it is not used for a while."""

import math
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from segzero.dialogue import Dialogue
from segzero.pipeline import Pipeline
from segzero.serving.errors import ApiError
from segzero.serving.limits import Limits
from segzero.serving.model_pool import ModelPair

T = TypeVar("T")
MOST_SHARES = 4  # parts that all places are divided into, however many owners there are: not all come at once


@dataclass(eq=False)
class Session:
    """One client's dialogue; the thread that takes a step in it holds its lock."""

    dialogue: Dialogue
    file: bytes  # its image, as it came
    owner: str
    models: ModelPair
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    steps: int = 0  # that undo can take back
    last_used: float = field(default_factory=time.monotonic)
    is_left: bool = False  # its client has left, and may come back
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def size(self) -> int:
        """Bytes of its image, as it came and decoded."""
        width, height = self.dialogue.registry.size
        return len(self.file) + 3 * width * height

    def take_step(self, step: Callable[[Dialogue, Pipeline], T], pipeline: Pipeline) -> T:
        """Run a step of the dialogue with a pipeline of its models, and count it if it changed the dialogue."""
        before = self.dialogue.registry
        try:
            return step(self.dialogue, pipeline)
        finally:
            self.steps += self.dialogue.registry is not before

    def undo(self) -> None:
        """Take the last step back."""
        self.dialogue.undo()
        self.steps -= 1


class SessionStore:
    """The sessions of all owners, each with at most a fair share of the places. For the event loop's thread alone."""

    def __init__(self, limits: Limits, owners: int = 1) -> None:
        self.limits = limits
        self.share = max(1, limits.dialogues // max(1, min(owners, MOST_SHARES)))
        self._sessions: dict[str, Session] = {}  # the least recently used first

    def __len__(self) -> int:
        return len(self._sessions)

    def make_room(self, owner: str, size: int = 0) -> list[Session]:
        """Choose the sessions that one more of `size` bytes would replace: only those that their clients have left.

        Raises 429 if there is no room without others, so that it can be called before any work is spent.
        """
        self._drop_expired()
        own = [session for session in self._sessions.values() if session.owner == owner]
        replaced = _fewest_left(own, lambda staying: len(staying) < self.share)
        if replaced is None:
            message = f"you have {self.share} dialogues open, which is your share; delete one, or wait"
            raise self._too_many(own, message)
        others = [session for session in self._sessions.values() if session not in replaced]
        more = _fewest_left(others, lambda staying: len(staying) < self.limits.dialogues and self._fits(staying, size))
        if more is None:
            message = f"{len(self._sessions)} dialogues are open, which is all there is room for; delete one, or wait"
            raise self._too_many(list(self._sessions.values()), message)
        return replaced + more

    def add(self, dialogue: Dialogue, file: bytes, owner: str, models: ModelPair) -> Session:
        """Store a new dialogue as a session of its owner."""
        session = Session(dialogue, file, owner, models)
        for replaced in self.make_room(owner, session.size):
            del self._sessions[replaced.id]
        self._sessions[session.id] = session
        return session

    def find(self, id: str, owner: str) -> Session:
        """Look up an owner's session; that of another owner is reported as unknown."""
        self._drop_expired()
        session = self._sessions.get(id)
        if session is None or session.owner != owner:
            raise ApiError(404, "no_dialogue", "no such dialogue of yours; it may have expired")
        session.last_used, session.is_left = time.monotonic(), False
        self._sessions[id] = self._sessions.pop(id)
        return session

    def delete(self, session: Session) -> None:
        """Forget a session."""
        self._sessions.pop(session.id, None)

    def _drop_expired(self) -> None:
        limit = time.monotonic() - self.limits.idle
        expired = [each for each in self._sessions.values() if each.last_used < limit and not each.lock.locked()]
        for session in expired:
            del self._sessions[session.id]

    def _fits(self, others: Sequence[Session], size: int) -> bool:
        """Whether images of `size` bytes fit beside those of the others; a single session always fits."""
        return not others or sum(session.size for session in others) + size <= self.limits.dialogue_bytes

    def _too_many(self, sessions: list[Session], message: str) -> ApiError:
        again = max(1, math.ceil(sessions[0].last_used + self.limits.idle - time.monotonic()))
        return ApiError(429, "too_many_dialogues", message, {"Retry-After": str(again)})


def _fewest_left(sessions: list[Session], is_enough: Callable[[list[Session]], bool]) -> list[Session] | None:
    """Choose the fewest sessions to drop, oldest first, among those that were left.

    `is_enough` is given the sessions that would stay. None if dropping all those that were left is not enough.
    """
    left = [session for session in sessions if session.is_left and not session.lock.locked()]
    for count in range(len(left) + 1):
        if is_enough([session for session in sessions if session not in left[:count]]):
            return left[:count]
    return None

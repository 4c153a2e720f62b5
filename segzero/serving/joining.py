"""A place before a policy that takes on requests while it answers others: each begins as soon as there is room.

>>> joining = Joining(most=16, length=64)
>>> joining.submit(lambda words: [len(word) for word in words], "mask").result()
4
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from segzero.errors import UserError
from segzero.serving.batching import Busy, Dead, Work, settle, why_ill


class Joining:
    """At most `most` are answered at once, each in a thread of its own; `length` more may wait.

    Whoever gives up cancels the future: what has not begun then never does. After a failure that is not the user's,
    `check` says whether the policy still works; if it raises, `die` is told why.
    """

    def __init__(
        self,
        most: int = 16,
        length: int = 64,
        check: Callable[[], None] = lambda: None,
        die: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.most, self.length, self.check, self.die = most, length, check, die
        self.seconds_each = 0.1  # lately
        self._begun: dict[Future[Any], float] = {}  # time.monotonic, of those that are being answered
        self._waiting: dict[Future[Any], tuple[Work, Any]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(most, "joining")
        self._why_closed = ""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def busy_since(self) -> float | None:
        """Since when the oldest is being answered; time.monotonic."""
        with self._lock:
            return min(self._begun.values(), default=None)

    def submit(self, work: Work, item: Any) -> "Future[Any]":
        """`work([item])` will be called; the future gets its result."""
        future: Future[Any] = Future()
        with self._lock:
            if self._why_closed:
                raise Dead(self._why_closed)
            if len(self._waiting) >= self.length:
                raise Busy
            self._waiting[future] = work, item
            # Whoever gives up takes the item along: the pool's queue only holds the future.
            future.add_done_callback(lambda done: self._waiting.pop(done, None))
            self._pool.submit(self._do, future)
        return future

    def wait(self) -> float:
        """Seconds until what waits now will be done, by the pace of late."""
        return (len(self._waiting) + len(self._begun)) / self.most * self.seconds_each

    def close(self, why: str = "the server is shutting down") -> None:
        """Nothing more is taken on, and all who wait are told; what has begun ends by itself, unheard."""
        with self._lock:
            self._why_closed = self._why_closed or why
            futures = [*self._waiting, *self._begun]
        self._pool.shutdown(wait=False, cancel_futures=True)
        for future in futures:
            settle(future, error=Dead(self._why_closed))

    def _do(self, future: "Future[Any]") -> None:
        with self._lock:
            asked = self._waiting.pop(future, None)
            if asked is None:
                return
            work, item = asked
            self._begun[future] = begin = time.monotonic()
        try:
            [result] = work([item])
        except BaseException as error:
            if not isinstance(error, UserError) and (why := why_ill(self.check)):
                why = f"{type(error).__name__}: {error}; then {why}"
                self.die(why)
                error = Dead(why)
            settle(future, error=error)
        else:
            settle(future, result)
        finally:
            with self._lock:
                del self._begun[future]
        self.seconds_each += 0.2 * (time.monotonic() - begin - self.seconds_each)

"""One thread for the models, and a queue before it: what waits and is alike is done together.

>>> batcher = Batcher(check=lambda: None)
>>> futures = [batcher.submit(lengths, word) for word in ("a", "mask")]          # doctest: +SKIP
>>> [future.result() for future in futures]                                      # doctest: +SKIP
[1, 4]
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from segzero.errors import TimedOut, Unavailable, UserError

LINGER_SHARE = 0.2  # of the last batch's time
Work = Callable[[list[Any]], list[Any]]  # a result for each item, in order


class Busy(Exception):
    """The queue is full."""


class Dead(Exception):
    """The models are gone, or going: no answer will come."""


@dataclass(eq=False)
class _Job:
    work: Work
    item: Any
    future: "Future[Any]" = field(default_factory=Future)


class Batcher:
    """Work is begun in the order it came; up to `most` items of the same work share a call.

    Whoever gives up cancels the future: what has not begun then never does. If a batch fails, its items are tried
    one by one, so that nobody pays for another's mistake; not if it asked a server that does not answer: that is
    told to all at once. After a failure that is not the user's, `check` says
    whether the models still work; if it raises, the batcher is dead, and says so to all who wait and will come.
    """

    def __init__(
        self,
        check: Callable[[], None],
        most: int = 16,
        length: int = 64,
        linger: float = 0.01,
        seen: Callable[[int, float], None] = lambda items, seconds: None,
    ) -> None:
        self.check, self.most, self.length, self.linger, self.seen = check, most, length, linger, seen
        self.why_dead = ""
        self.busy_since: float | None = None  # time.monotonic
        self.seconds_each = 0.1  # lately
        self._queue: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._last_items, self._last_seconds = 0, 0.0  # of the batch that ended just now
        self._thread = threading.Thread(target=self._live, name="models", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    def submit(self, work: Work, item: Any) -> "Future[Any]":
        """`work([..., item, ...])` will be called; the future gets this item's result."""
        with self._changed:
            if self.why_dead or self._closing:
                raise Dead(self.why_dead or "the server is shutting down")
            if len(self._queue) >= self.length:
                self._queue = deque(job for job in self._queue if not job.future.cancelled())
            if len(self._queue) >= self.length:
                raise Busy
            job = _Job(work, item)
            self._queue.append(job)
            self._changed.notify()
        return job.future

    def wait(self) -> float:
        """Seconds until what is queued now will be done, by the pace of late."""
        return (len(self._queue) + len(self._running)) * self.seconds_each

    def close(self, seconds: float) -> bool:
        """Finish what was taken on, take on nothing more; False if that is not done in time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def die(self, why: str) -> None:
        """No more answers: all who wait are told."""
        with self._changed:
            self.why_dead = self.why_dead or why
            jobs = [*self._running, *self._queue]
            self._queue.clear()
            self._changed.notify()
        for job in jobs:
            settle(job.future, error=Dead(self.why_dead))

    def _live(self) -> None:
        try:
            while jobs := self._take():
                self.busy_since = begin = time.monotonic()
                self._do(jobs[0].work, jobs)
                self.busy_since = None
                seconds = time.monotonic() - begin
                self.seconds_each += 0.2 * (seconds / len(jobs) - self.seconds_each)
                self._last_items, self._last_seconds = len(jobs), seconds
                self.seen(len(jobs), seconds)
        finally:
            self.busy_since = None
            if not self._closing:
                self.die("the thread of the models ended")

    def _take(self) -> list[_Job]:
        """The oldest job and those like it; none when it is time to end."""
        with self._changed:
            self._running = []
            while True:
                self._changed.wait_for(lambda: self._queue or self._closing or self.why_dead)
                if not self._queue or self.why_dead:
                    return []
                self._gather()
                work = next((job.work for job in self._queue if not job.future.cancelled()), None)
                kept: deque[_Job] = deque()
                for job in self._queue:
                    if job.work != work or len(self._running) == self.most:
                        kept.append(job)
                    elif job.future.set_running_or_notify_cancel():
                        self._running.append(job)
                self._queue = deque(job for job in kept if not job.future.cancelled())
                if self._running:
                    return self._running

    def _gather(self) -> None:
        """Clients who got their answers from one batch ask again at nearly the same time: wait for them a little.

        A client that is alone hardly waits. Without this, 16 clients would split into two halves that take turns.
        """
        expected = min(self.most, len(self._queue) + self._last_items)
        seconds = max(self.linger, LINGER_SHARE * self._last_seconds) if self._last_items > 1 else self.linger
        self._last_items = 0
        self._changed.wait_for(lambda: len(self._queue) >= expected or self._closing, seconds)

    def _do(self, work: Work, jobs: list[_Job]) -> None:
        if self.why_dead:
            return
        try:
            results = work([job.item for job in jobs])
        except (Unavailable, TimedOut) as error:  # asking for each of them again would take as long again
            for job in jobs:
                settle(job.future, error=error)
            return
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._do(work, [job])
                return
            if not isinstance(error, UserError) and (why := why_ill(self.check)):
                self.die(f"{type(error).__name__}: {error}; then {why}")
            settle(jobs[0].future, error=error)
            return
        for job, result in zip(jobs, results, strict=True):
            settle(job.future, result)


def why_ill(check: Callable[[], None]) -> str:
    """What `check` raises; nothing if all is well."""
    try:
        check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def settle(future: "Future[Any]", result: Any = None, error: BaseException | None = None) -> None:
    """Give a future its result, if it still wants one."""
    with suppress(InvalidStateError):  # given up meanwhile, or the other thread was quicker
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


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

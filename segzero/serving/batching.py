"""Queues before the models: one that batches requests, and one for policies that answer several at once.

>>> batcher = Batcher(check=lambda: None)
>>> key = BatchKey("length", "words")
>>> futures = [batcher.submit(key, lambda words: [len(word) for word in words], word) for word in ("a", "mask")]
>>> [future.result() for future in futures]
[1, 4]
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from segzero.errors import TimedOut, Unavailable, UserError
from segzero.serving.errors import ModelUnavailable, QueueFull

LINGER_SHARE = 0.2  # of the last batch's time
SMOOTHING = 0.2  # weight of the newest measurement in the average of seconds per item
Work = Callable[[list[Any]], list[Any]]  # a result for each item, in order


@dataclass(frozen=True)
class BatchKey:
    """The kind of work and the model that does it: queued items with equal keys share one call.

    The key has to determine the work, so `arguments` holds whatever else the call depends on.
    """

    kind: str
    model: str
    arguments: Hashable = None


@dataclass(eq=False)
class _Job:
    key: BatchKey
    work: Work
    item: Any
    future: "Future[Any]" = field(default_factory=Future)


class Batcher:
    """One thread that runs all work of the models, oldest first; up to `max_batch` items with one key share a call.

    Cancelling a future takes its item out of the queue. If a batch fails, its items are tried one by one, so that a
    bad item fails alone; not if a policy's own server did not answer, which would take as long for each of them.
    After any other failure than a UserError, `check` tests the models; if it raises, the batcher fails for good:
    everything queued, and everything submitted later, gets ModelUnavailable.
    """

    def __init__(
        self,
        check: Callable[[], None],
        max_batch: int = 16,
        max_queued: int = 64,
        linger: float = 0.01,  # seconds to wait for more items before a batch begins
        on_batch: Callable[[int, float], None] = lambda items, seconds: None,
    ) -> None:
        self.check, self.max_batch, self.max_queued = check, max_batch, max_queued
        self.linger, self.on_batch = linger, on_batch
        self.failure = ""  # why the models failed
        self.busy_since: float | None = None  # time.monotonic
        self.seconds_each = 0.1  # moving average
        self._queue: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._last_items, self._last_seconds = 0, 0.0  # of the batch that ended just now
        self._thread = threading.Thread(target=self._run_batches, name="models", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    def submit(self, key: BatchKey, work: Work, item: Any) -> "Future[Any]":
        """Queue an item for `work([..., item, ...])`; the future gets the item's result."""
        with self._changed:
            if self.failure or self._closing:
                raise ModelUnavailable(self.failure or "the server is shutting down")
            if len(self._queue) >= self.max_queued:
                self._queue = deque(job for job in self._queue if not job.future.cancelled())
            if len(self._queue) >= self.max_queued:
                raise QueueFull(self.expected_wait())
            job = _Job(key, work, item)
            self._queue.append(job)
            self._changed.notify()
        return job.future

    def expected_wait(self) -> float:
        """Estimate the seconds until everything queued now is done."""
        return (len(self._queue) + len(self._running)) * self.seconds_each

    def close(self, seconds: float) -> bool:
        """Accept nothing more and finish what is queued; False if that takes longer than `seconds`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def fail(self, reason: str) -> None:
        """Give ModelUnavailable to everything queued or running, and to everything submitted later."""
        with self._changed:
            self.failure = self.failure or reason
            jobs = [*self._running, *self._queue]
            self._queue.clear()
            self._changed.notify()
        for job in jobs:
            complete(job.future, error=ModelUnavailable(self.failure))

    def _run_batches(self) -> None:
        try:
            while jobs := self._next_batch():
                self.busy_since = begin = time.monotonic()
                self._run(jobs)
                self.busy_since = None
                seconds = time.monotonic() - begin
                self.seconds_each += SMOOTHING * (seconds / len(jobs) - self.seconds_each)
                self._last_items, self._last_seconds = len(jobs), seconds
                self.on_batch(len(jobs), seconds)
        finally:
            self.busy_since = None
            if not self._closing:
                self.fail("the thread of the models ended")

    def _next_batch(self) -> list[_Job]:
        """Take the oldest job and those with its key; an empty list when the thread has to end."""
        with self._changed:
            self._running = []
            while True:
                self._changed.wait_for(lambda: self._queue or self._closing or self.failure)
                if not self._queue or self.failure:
                    return []
                self._wait_for_more()
                key = next((job.key for job in self._queue if not job.future.cancelled()), None)
                remaining: deque[_Job] = deque()
                for job in self._queue:
                    if job.key != key or len(self._running) == self.max_batch:
                        remaining.append(job)
                    elif job.future.set_running_or_notify_cancel():
                        self._running.append(job)
                self._queue = deque(job for job in remaining if not job.future.cancelled())
                if self._running:
                    return self._running

    def _wait_for_more(self) -> None:
        """Linger a little: clients that got their answers from one batch ask again at nearly the same time.

        A single client hardly waits. Without this, 16 clients would split into two halves that take turns.
        """
        expected = min(self.max_batch, len(self._queue) + self._last_items)
        seconds = max(self.linger, LINGER_SHARE * self._last_seconds) if self._last_items > 1 else self.linger
        self._last_items = 0
        self._changed.wait_for(lambda: len(self._queue) >= expected or self._closing, seconds)

    def _run(self, jobs: list[_Job]) -> None:
        if self.failure:
            return
        try:
            results = jobs[0].work([job.item for job in jobs])
        except (Unavailable, TimedOut) as error:  # one call for each of them would take as long again
            for job in jobs:
                complete(job.future, error=error)
            return
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._run([job])
                return
            if not isinstance(error, UserError) and (reason := failure_of(self.check)):
                self.fail(f"{type(error).__name__}: {error}; then {reason}")
            complete(jobs[0].future, error=error)
            return
        for job, result in zip(jobs, results, strict=True):
            complete(job.future, result)


class ConcurrentQueue:
    """Bounded queue for policies that answer several requests at once: vLLM with continuous batching, or a server.

    Up to `max_concurrent` requests run, each in a thread of its own, and `max_queued` more wait. Cancelling a future
    takes its request out of the queue. After any other failure than a UserError, `check` tests the policy; if it
    raises, `on_failure` is called with the reason.
    """

    def __init__(
        self,
        max_concurrent: int = 16,
        max_queued: int = 64,
        check: Callable[[], None] = lambda: None,
        on_failure: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.max_concurrent, self.max_queued = max_concurrent, max_queued
        self.check, self.on_failure = check, on_failure
        self.seconds_each = 0.1  # moving average
        self._running: dict[Future[Any], float] = {}  # when each began, time.monotonic
        self._queue: dict[Future[Any], tuple[Work, Any]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_concurrent, "concurrent")
        self._closed = ""  # why

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def busy_since(self) -> float | None:
        """Start of the oldest running request, time.monotonic; None if nothing runs."""
        with self._lock:
            return min(self._running.values(), default=None)

    def submit(self, work: Work, item: Any) -> "Future[Any]":
        """Queue a call of `work([item])`; the future gets the item's result."""
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise ModelUnavailable(self._closed)
            if len(self._queue) >= self.max_queued:
                raise QueueFull(self.expected_wait())
            self._queue[future] = work, item
            # The pool's own queue holds the future alone, so a cancelled request frees its item at once.
            future.add_done_callback(lambda done: self._queue.pop(done, None))
            self._pool.submit(self._run, future)
        return future

    def expected_wait(self) -> float:
        """Estimate the seconds until everything queued now is done."""
        return (len(self._queue) + len(self._running)) / self.max_concurrent * self.seconds_each

    def close(self, reason: str = "the server is shutting down") -> None:
        """Accept nothing more and give ModelUnavailable to all; running calls end by themselves, unused."""
        with self._lock:
            self._closed = self._closed or reason
            futures = [*self._queue, *self._running]
        self._pool.shutdown(wait=False, cancel_futures=True)
        for future in futures:
            complete(future, error=ModelUnavailable(self._closed))

    def _run(self, future: "Future[Any]") -> None:
        with self._lock:
            request = self._queue.pop(future, None)
            if request is None:
                return
            work, item = request
            self._running[future] = begin = time.monotonic()
        try:
            [result] = work([item])
        except BaseException as error:
            if not isinstance(error, UserError) and (reason := failure_of(self.check)):
                reason = f"{type(error).__name__}: {error}; then {reason}"
                self.on_failure(reason)
                error = ModelUnavailable(reason)
            complete(future, error=error)
        else:
            complete(future, result)
        finally:
            with self._lock:
                del self._running[future]
        self.seconds_each += SMOOTHING * (time.monotonic() - begin - self.seconds_each)


def failure_of(check: Callable[[], None]) -> str:
    """Run a check and describe what it raises; empty if all is well."""
    try:
        check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def complete(future: "Future[Any]", result: Any = None, error: BaseException | None = None) -> None:
    """Give a future its result or its error, unless it was cancelled or completed meanwhile."""
    with suppress(InvalidStateError):
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

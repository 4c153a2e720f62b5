"""Threads for slow work beside the models; a request waits for them until its deadline.

A thread can't be stopped, and the data that a client sends may keep one busy for seconds. So each kind of work has a
few threads of its own: large images wait for each other, from their decoding to their answer, and nothing else waits
for them.
"""

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

from starlette.types import Scope

from segzero.serving.errors import timed_out

P = ParamSpec("P")
T = TypeVar("T")
CORES = os.cpu_count() or 1


class Threads:
    """A fixed number of threads; with `background` they have a lower priority than the models' own (Linux)."""

    def __init__(self, count: int, name: str, background: bool = False) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, name, _lower_priority if background else None)

    async def run(self, scope: Scope, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` for the request of that scope; work that has not begun by the request's end is cancelled."""
        return await wait_until_deadline(scope, asyncio.wrap_future(self._pool.submit(work, *args, **kwargs)))


async def wait_until_deadline(scope: Scope, work: Awaitable[T]) -> T:
    """Wait for `work` until the deadline of the request of that scope, then raise 504."""
    try:
        async with asyncio.timeout(scope["segzero.deadline"] - time.monotonic()) as limit:
            return await work
    except TimeoutError:
        if not limit.expired():
            raise  # the work ran out of a time of its own
        raise timed_out() from None


def _lower_priority() -> None:
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


reading = Threads(4, "reading")  # bodies, and the headers and pixels of small images
decoding = Threads(max(1, CORES // 2), "decoding", background=True)  # large images
writing = Threads(4, "writing")
exporting = Threads(2, "export")
fetching = Threads(64, "fetch")  # which mostly wait for other servers

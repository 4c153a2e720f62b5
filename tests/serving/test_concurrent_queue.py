"""The queue of policies that answer several requests at once, with work that needs no policy."""

import gc
import time
import weakref
from concurrent.futures import CancelledError

import pytest
from PIL import Image

from segzero.errors import UserError
from segzero.serving.batching import ConcurrentQueue
from segzero.serving.errors import ModelUnavailable, QueueFull
from tests.helpers.servers import wait_until


def test_a_request_does_not_wait_for_longer_ones(work):
    queue = ConcurrentQueue(max_concurrent=3)
    slow = [queue.submit(work.block, n) for n in range(2)]
    assert queue.submit(work.double, 4).result(5) == 8
    assert not any(future.done() for future in slow)
    work.release.set()
    assert [future.result(5) for future in slow] == [0, 1]


def test_further_requests_wait_and_can_be_cancelled(work):
    queue = ConcurrentQueue(max_concurrent=2, max_queued=2)
    slow = [queue.submit(work.block, n) for n in range(2)]
    wait_until(lambda: len(work.blocked) == 2)
    cancelled, kept = queue.submit(work.double, 5), queue.submit(work.double, 6)
    assert len(queue) == 2
    with pytest.raises(QueueFull) as full:
        queue.submit(work.double, 7)
    assert full.value.seconds == queue.expected_wait() > 0
    assert cancelled.cancel() and len(queue) == 1
    work.release.set()
    assert kept.result(5) == 12 and [future.result(5) for future in slow] == [0, 1]
    wait_until(lambda: queue.busy_since is None)
    assert [5] not in work.calls and len(queue) == 0


def test_a_cancelled_request_is_not_kept_in_memory(work):
    queue = ConcurrentQueue(max_concurrent=1)
    queue.submit(work.block, 1)
    wait_until(lambda: work.blocked)
    picture = Image.new("RGB", (4, 4))
    alive = weakref.ref(picture)
    queue.submit(work.double, picture).cancel()
    del picture
    gc.collect()
    assert alive() is None


def test_cancelling_a_running_request_does_not_wait_for_it(work):
    queue = ConcurrentQueue(max_concurrent=1)
    future = queue.submit(work.block, 1)
    wait_until(lambda: work.blocked)
    began = queue.busy_since
    assert began is not None and began <= time.monotonic()
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(1)
    assert queue.busy_since == began  # its thread still runs


def refuse(items):
    raise UserError("the question is empty")


def break_down(items):
    raise RuntimeError("out of order")


def test_a_policy_that_fails_its_check_is_reported():
    failures = []

    def check():
        raise RuntimeError("no engine")

    queue = ConcurrentQueue(check=check, on_failure=failures.append)
    with pytest.raises(UserError, match="empty"):
        queue.submit(refuse, 1).result(5)
    assert failures == []
    with pytest.raises(ModelUnavailable, match="no engine"):
        queue.submit(break_down, 1).result(5)
    assert failures == ["RuntimeError: out of order; then RuntimeError: no engine"]
    healthy = ConcurrentQueue(check=lambda: None, on_failure=failures.append)
    with pytest.raises(RuntimeError, match="out of order"):
        healthy.submit(break_down, 1).result(5)
    assert len(failures) == 1


def test_closing_fails_everything(work):
    queue = ConcurrentQueue(max_concurrent=1)
    running, waiting = queue.submit(work.block, 1), queue.submit(work.double, 2)
    wait_until(lambda: work.blocked)
    queue.close()
    for future in (running, waiting):
        with pytest.raises(ModelUnavailable, match="shutting down"):
            future.result(5)
    with pytest.raises(ModelUnavailable):
        queue.submit(work.double, 3)
    work.release.set()
    assert work.blocked == [[1]] and work.calls == []

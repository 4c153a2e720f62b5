"""The place before a policy that takes on requests while it answers others, with work that needs no policy."""

import gc
import threading
import time
import weakref
from concurrent.futures import CancelledError

import pytest
from PIL import Image

from segzero.errors import UserError
from segzero.serving.batching import Busy, Dead, Joining
from tests.helpers.servers import wait_until


class Held:
    """Work that waits for `go`, and notes what it was called with."""

    def __init__(self) -> None:
        self.go, self.calls = threading.Event(), []

    def hold(self, items):
        self.calls.append(items)
        assert self.go.wait(10)
        return items

    def double(self, items):
        self.calls.append(items)
        return [2 * item for item in items]


@pytest.fixture
def held():
    work = Held()
    yield work
    work.go.set()


def test_nobody_waits_for_anothers_answer(held):
    joining = Joining(most=3)
    slow = [joining.submit(held.hold, n) for n in range(2)]
    assert joining.submit(held.double, 4).result(5) == 8
    assert not any(future.done() for future in slow)
    held.go.set()
    assert [future.result(5) for future in slow] == [0, 1]


def test_when_all_places_are_taken_one_waits_and_may_give_up(held):
    joining = Joining(most=2, length=2)
    slow = [joining.submit(held.hold, n) for n in range(2)]
    wait_until(lambda: len(held.calls) == 2)
    gone, stays = joining.submit(held.double, 5), joining.submit(held.double, 6)
    assert len(joining) == 2 and joining.wait() > 0
    with pytest.raises(Busy):
        joining.submit(held.double, 7)
    assert gone.cancel() and len(joining) == 1
    held.go.set()
    assert stays.result(5) == 12 and [future.result(5) for future in slow] == [0, 1]
    wait_until(lambda: joining.busy_since is None)
    assert [5] not in held.calls and len(joining) == 0


def test_what_is_given_up_is_not_held(held):
    joining = Joining(most=1)
    joining.submit(held.hold, 1)
    wait_until(lambda: held.calls)
    picture = Image.new("RGB", (4, 4))
    gone = weakref.ref(picture)
    joining.submit(held.double, picture).cancel()
    del picture
    gc.collect()
    assert gone() is None


def test_who_gives_up_what_has_begun_is_free_at_once(held):
    joining = Joining(most=1)
    future = joining.submit(held.hold, 1)
    wait_until(lambda: held.calls)
    began = joining.busy_since
    assert began is not None and began <= time.monotonic()
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(1)
    assert joining.busy_since == began  # it is still being answered


def refuse(items):
    raise UserError("the question is empty")


def break_down(items):
    raise RuntimeError("out of order")


def test_a_failure_is_told_and_a_dead_policy_is_death():
    told = []

    def check():
        raise RuntimeError("no engine")

    joining = Joining(check=check, die=told.append)
    with pytest.raises(UserError, match="empty"):
        joining.submit(refuse, 1).result(5)
    assert told == []
    with pytest.raises(Dead, match="no engine"):
        joining.submit(break_down, 1).result(5)
    assert told == ["RuntimeError: out of order; then RuntimeError: no engine"]
    well = Joining(check=lambda: None, die=told.append)
    with pytest.raises(RuntimeError, match="out of order"):
        well.submit(break_down, 1).result(5)
    assert len(told) == 1


def test_closing_tells_whoever_waits(held):
    joining = Joining(most=1)
    begun, waiting = joining.submit(held.hold, 1), joining.submit(held.double, 2)
    wait_until(lambda: held.calls)
    joining.close()
    for future in (begun, waiting):
        with pytest.raises(Dead, match="shutting down"):
            future.result(5)
    with pytest.raises(Dead):
        joining.submit(held.double, 3)
    held.go.set()
    assert held.calls == [[1]]

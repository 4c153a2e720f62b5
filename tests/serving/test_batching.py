"""The queue before the models, with work that needs no models."""

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import pytest

from segzero.errors import UserError
from segzero.serving.batching import Batcher, Busy, Dead


@pytest.fixture
def make():
    """A batcher that is ended with the test; `make(...)`."""
    made = []

    def call(check=lambda: None, **options) -> Batcher:
        made.append(Batcher(check, **options))
        return made[-1]

    yield call
    for batcher in made:
        assert batcher.close(5)


class Held:
    """Work that waits for `go`, and notes what it was called with."""

    def __init__(self) -> None:
        self.begun, self.go, self.calls = threading.Event(), threading.Event(), []

    def first(self, items):
        self.begun.set()
        assert self.go.wait(10)
        return items

    def double(self, items):
        self.calls.append(items)
        return [2 * item for item in items]

    def sign(self, items):
        self.calls.append(items)
        return [-item for item in items]


@pytest.fixture
def held():
    work = Held()
    yield work
    work.go.set()


def test_what_waits_and_is_alike_shares_a_call(make, held):
    batcher = make(most=3)
    batcher.submit(held.first, 0)
    assert held.begun.wait(5)
    doubled = [batcher.submit(held.double, n) for n in range(4)]
    signed = [batcher.submit(held.sign, n) for n in range(2)]
    held.go.set()
    assert [f.result(5) for f in doubled] == [0, 2, 4, 6] and [f.result(5) for f in signed] == [0, -1]
    assert held.calls == [[0, 1, 2], [3], [0, 1]]  # the oldest first


def test_the_answer_is_ones_own_whoever_else_asks(make):
    batcher = make(most=7, length=1000)

    def as_text(items):
        return [f"{item}" for item in items]

    def ask(client: int) -> None:
        for n in range(20):
            assert batcher.submit(as_text, (client, n)).result(10) == f"{(client, n)}"

    with ThreadPoolExecutor(8) as clients:
        for done in [clients.submit(ask, n) for n in range(8)]:
            done.result(20)


def test_who_gives_up_is_left_out(make, held):
    batcher = make()
    batcher.submit(held.first, 0)
    assert held.begun.wait(5)
    gone, stays = batcher.submit(held.double, 1), batcher.submit(held.double, 2)
    assert gone.cancel()
    held.go.set()
    assert stays.result(5) == 4 and held.calls == [[2]]
    with pytest.raises(CancelledError):
        gone.result(5)


def test_a_full_queue_says_so_and_has_room_once_somebody_gives_up(make, held):
    batcher = make(length=2)
    batcher.submit(held.first, 0)
    assert held.begun.wait(5)
    waiting = [batcher.submit(held.double, n) for n in range(2)]
    with pytest.raises(Busy):
        batcher.submit(held.double, 3)
    assert batcher.wait() > 0
    waiting[0].cancel()
    last = batcher.submit(held.double, 4)
    held.go.set()
    assert last.result(5) == 8


def test_nobody_pays_for_anothers_mistake(make, held):
    def invert(items):
        if 0 in items:
            raise UserError("nothing to divide by")
        return [1 / item for item in items]

    batcher = make()
    batcher.submit(held.first, 0)
    assert held.begun.wait(5)
    futures = [batcher.submit(invert, n) for n in (1, 0, 2)]
    held.go.set()
    assert futures[0].result(5) == 1 and futures[2].result(5) == 0.5
    with pytest.raises(UserError, match="nothing to divide"):
        futures[1].result(5)


def break_down(items):
    raise RuntimeError("out of order")


def test_a_failure_is_one_requests_own_while_the_models_work(make):
    batcher = make()
    with pytest.raises(RuntimeError, match="out of order"):
        batcher.submit(break_down, 1).result(5)
    assert batcher.submit(len_of_each, "abc").result(5) == 3


def len_of_each(items):
    return [len(item) for item in items]


def test_models_that_are_gone_are_told_to_all(make, held):
    def check():
        raise RuntimeError("no such process")

    batcher = make(check)
    batcher.submit(held.first, 0)
    assert held.begun.wait(5)
    futures = [batcher.submit(break_down, n) for n in range(3)] + [batcher.submit(held.double, 1)]
    held.go.set()
    assert not wait(futures, 5).not_done
    for future in futures:
        with pytest.raises(Dead, match="no such process"):
            future.result()
    with pytest.raises(Dead):
        batcher.submit(held.double, 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_leaves_nobody_waiting(make):
    def leave(items):
        raise SystemExit

    batcher = make()
    with pytest.raises(Dead):
        batcher.submit(leave, 1).result(5)
    with pytest.raises(Dead):
        batcher.submit(len_of_each, "a")


def test_closing_finishes_what_was_taken_on(make, held):
    batcher = make(most=1)
    batcher.submit(held.first, 0)
    assert held.begun.wait(5)
    futures = [batcher.submit(held.double, n) for n in range(3)]
    closing = threading.Thread(target=batcher.close, args=(10,))
    closing.start()
    held.go.set()
    assert [future.result(5) for future in futures] == [0, 2, 4]
    closing.join(5)
    assert not batcher.why_dead
    with pytest.raises(Dead, match="shutting down"):
        batcher.submit(held.double, 1)

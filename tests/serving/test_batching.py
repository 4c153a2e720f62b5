"""The batcher, with work that needs no models."""

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import pytest

from segzero.errors import Unavailable, UserError
from segzero.serving.batching import Batcher, BatchKey
from segzero.serving.errors import ModelUnavailable, QueueFull

KEY = BatchKey("work", "model")


@pytest.fixture
def make_batcher():
    """A function that makes batchers, which are closed with the test."""
    batchers = []

    def make(check=lambda: None, **options) -> Batcher:
        batchers.append(Batcher(check, **options))
        return batchers[-1]

    yield make
    for batcher in batchers:
        assert batcher.close(5)


def occupy(batcher: Batcher, work) -> None:
    """Keep the batcher busy until the work's `release`."""
    batcher.submit(BatchKey("block", "model"), work.block, 0)
    assert work.begun.wait(5)


def lengths(items):
    return [len(item) for item in items]


def break_down(items):
    raise RuntimeError("out of order")


def test_items_with_one_key_share_a_call(make_batcher, work):
    batcher = make_batcher(max_batch=3)
    occupy(batcher, work)
    doubled = [batcher.submit(BatchKey("double", "model"), work.double, n) for n in range(4)]
    negated = [batcher.submit(BatchKey("negate", "model"), work.negate, n) for n in range(2)]
    work.release.set()
    assert [f.result(5) for f in doubled] == [0, 2, 4, 6] and [f.result(5) for f in negated] == [0, -1]
    assert work.calls == [[0, 1, 2], [3], [0, 1]]  # the oldest first


def test_the_kind_the_model_and_the_arguments_are_the_key(make_batcher, work):
    batcher = make_batcher()
    occupy(batcher, work)
    keys = [BatchKey("a", "m"), BatchKey("b", "m"), BatchKey("a", "n"), BatchKey("a", "m", 1), BatchKey("a", "m")]
    futures = [batcher.submit(key, work.double, number) for number, key in enumerate(keys)]
    work.release.set()
    assert [future.result(5) for future in futures] == [0, 2, 4, 6, 8]
    assert work.calls == [[0, 4], [1], [2], [3]]


def test_every_client_gets_its_own_answer(make_batcher):
    batcher = make_batcher(max_batch=7, max_queued=1000)

    def as_text(items):
        return [f"{item}" for item in items]

    def ask(client: int) -> None:
        for n in range(20):
            assert batcher.submit(KEY, as_text, (client, n)).result(10) == f"{(client, n)}"

    with ThreadPoolExecutor(8) as clients:
        for done in [clients.submit(ask, n) for n in range(8)]:
            done.result(20)


def test_a_cancelled_item_is_left_out(make_batcher, work):
    batcher = make_batcher()
    occupy(batcher, work)
    cancelled, kept = batcher.submit(KEY, work.double, 1), batcher.submit(KEY, work.double, 2)
    assert cancelled.cancel()
    work.release.set()
    assert kept.result(5) == 4 and work.calls == [[2]]
    with pytest.raises(CancelledError):
        cancelled.result(5)


def test_a_full_queue_refuses_items_until_one_is_cancelled(make_batcher, work):
    batcher = make_batcher(max_queued=2)
    occupy(batcher, work)
    queued = [batcher.submit(KEY, work.double, n) for n in range(2)]
    with pytest.raises(QueueFull) as full:
        batcher.submit(KEY, work.double, 3)
    assert full.value.seconds == batcher.expected_wait() > 0
    queued[0].cancel()
    last = batcher.submit(KEY, work.double, 4)
    work.release.set()
    assert last.result(5) == 8


def test_a_bad_item_fails_alone(make_batcher, work):
    def invert(items):
        if 0 in items:
            raise UserError("nothing to divide by")
        return [1 / item for item in items]

    batcher = make_batcher()
    occupy(batcher, work)
    futures = [batcher.submit(KEY, invert, n) for n in (1, 0, 2)]
    work.release.set()
    assert futures[0].result(5) == 1 and futures[2].result(5) == 0.5
    with pytest.raises(UserError, match="nothing to divide"):
        futures[1].result(5)


def test_a_server_that_is_gone_fails_a_whole_batch_at_once(make_batcher, work):
    calls = []

    def ask(items):
        calls.append(items)
        raise Unavailable("no server")

    def check():
        raise AssertionError("the models are fine")

    batcher = make_batcher(check)
    occupy(batcher, work)
    futures = [batcher.submit(KEY, ask, n) for n in range(3)]
    work.release.set()
    for future in futures:
        with pytest.raises(Unavailable):
            future.result(5)
    assert calls == [[0, 1, 2]] and not batcher.failure


def test_a_failure_is_one_items_own_while_the_models_work(make_batcher):
    batcher = make_batcher()
    with pytest.raises(RuntimeError, match="out of order"):
        batcher.submit(KEY, break_down, 1).result(5)
    assert batcher.submit(BatchKey("lengths", "model"), lengths, "abc").result(5) == 3


def test_models_that_fail_their_check_fail_everything(make_batcher, work):
    def check():
        raise RuntimeError("no such process")

    batcher = make_batcher(check)
    occupy(batcher, work)
    futures = [batcher.submit(KEY, break_down, n) for n in range(3)]
    futures.append(batcher.submit(BatchKey("double", "model"), work.double, 1))
    work.release.set()
    assert not wait(futures, 5).not_done
    for future in futures:
        with pytest.raises(ModelUnavailable, match="no such process"):
            future.result()
    with pytest.raises(ModelUnavailable):
        batcher.submit(KEY, work.double, 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_leaves_no_item_waiting(make_batcher):
    def leave(items):
        raise SystemExit

    batcher = make_batcher()
    with pytest.raises(ModelUnavailable):
        batcher.submit(KEY, leave, 1).result(5)
    with pytest.raises(ModelUnavailable):
        batcher.submit(KEY, lengths, "a")


def test_closing_finishes_everything_that_is_queued(make_batcher, work):
    batcher = make_batcher(max_batch=1)
    occupy(batcher, work)
    futures = [batcher.submit(KEY, work.double, n) for n in range(3)]
    closing = threading.Thread(target=batcher.close, args=(10,))
    closing.start()
    work.release.set()
    assert [future.result(5) for future in futures] == [0, 2, 4]
    closing.join(5)
    assert not batcher.failure
    with pytest.raises(ModelUnavailable, match="shutting down"):
        batcher.submit(KEY, work.double, 1)

"""Rollouts beside servers that answer as a test wants: whatever breaks is heard of, and nothing waits for ever."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError

from segzero.errors import UserError
from segzero.training import rollouts as module
from segzero.training.rewarding import Scorer
from segzero.training.rollouts import Rollouts


class Server:
    """A replica's handle: `write_group.remote` gives what `reply` does with the number asked for."""

    def __init__(self, reply) -> None:
        self.write_group, self.reply = self, reply
        self.writing = self.most = 0

    async def remote(self, ids, image, checkpoint, count, sampling):
        self.writing += 1
        self.most = max(self.most, self.writing)
        try:
            return await self.reply(count)
        finally:
            self.writing -= 1


async def write(count):
    await asyncio.sleep(0.01)
    return [SimpleNamespace(ids=[1, 2, 3], log_probs=[-0.1] * 3, truncated=False, weights=0) for _ in range(count)]


async def die(count):
    raise RayActorError(error_msg="killed")


async def never(count):
    await asyncio.Event().wait()


@pytest.fixture
def started(samples, encoder):
    """started(reply) -> Rollouts with one server."""
    config = SimpleNamespace(
        n=2, temperature=1.0, top_p=1.0, top_k=-1, response_length=8, val_kwargs=SimpleNamespace(top_p=1.0, top_k=-1)
    )

    def start(reply, **options):
        scorer = Scorer("vision_reasoner", "multi", encoder.checkpoint.frame)
        return Rollouts([Server(reply)], samples, encoder, scorer, config, **options)

    return start


def batch(*indices):
    return {"global_steps": 1, "uid": [f"prompt-{i}" for i in indices], "index": list(indices)}


def wait_for_failure(rollouts, expected, match):
    assert rollouts.changed.wait(10)
    with pytest.raises(expected, match=match):
        rollouts.check()


def test_validation_answers_all_in_order_but_not_all_at_once(started, samples, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 2)
    rollouts = started(write)
    groups = rollouts.answer(samples)
    assert [group.sample.id for group in groups] == [sample.id for sample in samples]
    assert [len(group.answers) for group in groups] == [1] * len(samples)
    assert rollouts.servers[0].most == 2


def test_a_replica_that_dies_ends_validation(started, samples):
    with pytest.raises(RayActorError, match="killed"):
        started(die).answer(samples)


def test_validation_ends_when_anything_watched_dies(started, samples):
    def check():
        raise UserError("trainer 0 died")

    begin = time.monotonic()
    with pytest.raises(UserError, match="trainer 0 died"):
        started(never, watch=SimpleNamespace(check=check)).answer(samples)
    assert time.monotonic() - begin < 10


def test_a_replica_that_dies_ends_a_step(started):
    rollouts = started(die)
    rollouts.generate_sequences(batch(0, 1))
    wait_for_failure(rollouts, RayActorError, "killed")


def test_a_failure_while_handing_over_ends_a_step(started, monkeypatch):
    async def fail(**options):
        raise ConnectionError("the queue is gone")

    monkeypatch.setattr(module.tq, "async_kv_batch_put", fail)
    rollouts = started(write)
    rollouts.generate_sequences(batch(0))
    wait_for_failure(rollouts, ConnectionError, "the queue is gone")
    assert [len(group.answers) for group in rollouts.drain()] == [2]
    assert rollouts.drain() == []


def test_the_first_failure_is_the_one_that_is_told(started):
    deaths = iter(["first", "second"])

    async def die_in_turn(count):
        raise RayActorError(error_msg=next(deaths))

    rollouts = started(die_in_turn)
    rollouts.generate_sequences(batch(0))
    wait_for_failure(rollouts, RayActorError, "first")
    rollouts.changed.clear()
    rollouts.generate_sequences(batch(1))
    wait_for_failure(rollouts, RayActorError, "first")

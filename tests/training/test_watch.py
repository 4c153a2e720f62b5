"""Actors are asked now and then whether they live; Ray's own answers are played here, real deaths in whole runs."""

import time

import pytest
from ray.exceptions import RayActorError

from segzero.errors import UserError
from segzero.training import watch
from segzero.training.watch import Watch


class Actor:
    """Counts what it is asked, and is what Ray would say of it: alive, busy or dead."""

    def __init__(self, state: str = "alive") -> None:
        self.state, self.asked = state, 0

    def ask(self):
        self.asked += 1
        return self


@pytest.fixture(autouse=True)
def killed(monkeypatch):
    """Ray's part; holds the actors that were killed."""

    def get(actor):
        if actor.state == "dead":
            raise RayActorError(error_msg="killed by\nthe kernel")

    killed: list[Actor] = []
    monkeypatch.setattr("ray.wait", lambda asked, timeout: ([a for a in asked if a.state != "busy"], []))
    monkeypatch.setattr("ray.get", get)
    monkeypatch.setattr("ray.kill", killed.append)
    monkeypatch.setattr(watch, "EVERY", 0.01)
    return killed


def test_a_busy_actor_is_asked_once_until_it_answers():
    actor = Actor("busy")
    watched = Watch({"trainer 0": actor.ask})
    for _ in range(3):
        watched.look()
    assert actor.asked == 1
    actor.state = "alive"
    watched.look()
    watched.look()
    assert actor.asked == 2
    watched.check()


def test_a_dead_actor_is_named_with_the_cause_in_one_line():
    watched = Watch({"rollout replica 0": Actor().ask, "rollout replica 1": Actor("dead").ask})
    watched.look()
    with pytest.raises(UserError, match=r"rollout replica 1 died, so the run ends.*killed by the kernel") as error:
        watched.check()
    assert "\n" not in str(error.value)


def test_a_death_ends_the_trainers_too(killed):
    segmenter, trainers = Actor("busy"), [Actor(), Actor()]
    watched = Watch({"segmenter": segmenter.ask}, trainers)
    watched.start()
    time.sleep(0.1)
    assert watched.cause is None and not killed
    segmenter.state = "dead"
    deadline = time.monotonic() + 10
    while len(killed) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert killed == trainers and "segmenter died" in str(watched.cause)


def test_a_stopped_watch_asks_no_more(killed):
    actor = Actor()
    watched = Watch({"segmenter": actor.ask}, [Actor()])
    watched.start()
    time.sleep(0.1)
    watched.stop()
    time.sleep(0.1)
    asked, actor.state = actor.asked, "dead"
    time.sleep(0.1)
    assert actor.asked == asked > 0 and not killed

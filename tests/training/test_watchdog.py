"""Actors are asked now and then whether they live; Ray's own answers are played here, real deaths in whole runs."""

import time

import pytest
from ray.exceptions import RayActorError

from segzero.errors import UserError
from segzero.training import watchdog
from segzero.training.watchdog import Watch


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
    monkeypatch.setattr(watchdog, "EVERY", 0.01)
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


def test_a_process_that_ray_ended_for_memory_is_told_with_what_to_lower():
    said = (
        "3 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 127.0.0.1, ID: 77) "
        "was 22.65GB used / 23.54GB limit (0.962166) OOM kill reason: Memory usage 24091844608B exceeded threshold"
    )
    cause = watchdog.cause_of_death(RayActorError(error_msg=said))
    assert cause.startswith("the machine's memory was full (22.65GB of 23.54GB); lower actor_rollout_ref.actor.ppo_max")
    assert "\n" not in cause


def test_a_process_that_the_kernel_ended_for_memory_is_told_from_one_that_was_killed(tmp_path, monkeypatch):
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 4213\noom_kill 2\n")
    assert watchdog.memory_kills(counters) == 2 and watchdog.memory_kills(tmp_path / "none") is None
    monkeypatch.setattr(watchdog, "memory_kills", lambda: 2)
    error = RayActorError(
        error_msg="The worker died unexpectedly: killed by SIGKILL by OOM killer, or ray stop --force"
    )
    assert "because the memory was full; lower" in watchdog.cause_of_death(error, kills_before=1)
    assert "ray stop --force" in watchdog.cause_of_death(error, kills_before=2)
    assert "ray stop --force" in watchdog.cause_of_death(error, kills_before=None)

"""The watchdog notices dead actors of Ray, and explains processes that were killed for memory."""

import time
from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from segzero.errors import UserError
from segzero.training.watchdog import Watchdog, cause_of_death, memory_kills

SOON = 30  # s


class Actor:
    """Replies to a ping once a file exists; counts its pings in another."""

    def __init__(self, go: str) -> None:
        self.go, self.pings = Path(go), Path(f"{go}.pings")

    def ping(self) -> None:
        with self.pings.open("a") as count:
            count.write(".")
        while not self.go.exists():
            time.sleep(0.01)


def pings(go: Path) -> int:
    count = Path(f"{go}.pings")
    return len(count.read_text()) if count.exists() else 0


def eventually(condition) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def ray():
    import ray

    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=80_000_000,
        logging_level="error",
        log_to_driver=False,
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def actor(ray, tmp_path):
    """actor(name) -> a handle, and the file that lets it reply; with `busy` the file is not there yet."""
    handles = []

    def start(name: str, busy: bool = False):
        go = tmp_path / name
        if not busy:
            go.touch()
        handles.append(ray.remote(Actor).options(num_cpus=0).remote(str(go)))
        return handles[-1], go

    yield start
    for handle in handles:
        ray.kill(handle)


@pytest.mark.slow
def test_a_busy_actor_is_called_once_until_it_replies(actor):
    busy, go = actor("trainer", busy=True)
    watchdog = Watchdog({"trainer 0": busy.ping.remote})
    watchdog.ping()
    eventually(lambda: pings(go) == 1)
    for _ in range(3):
        watchdog.ping()
    go.touch()

    def called_again() -> bool:
        watchdog.ping()
        return pings(go) > 1

    eventually(called_again)
    watchdog.check()


@pytest.mark.slow
def test_a_dead_actor_is_named_with_the_cause_in_one_line(ray, actor):
    (living, _), (dead, _) = actor("living"), actor("dead")
    ray.get([living.ping.remote(), dead.ping.remote()])
    ray.kill(dead)
    watchdog = Watchdog({"rollout replica 0": living.ping.remote, "rollout replica 1": dead.ping.remote})

    def noticed() -> bool:
        watchdog.ping()
        return watchdog.cause is not None

    eventually(noticed)
    with pytest.raises(UserError, match=r"^rollout replica 1 died, so the run ends.*killed") as error:
        watchdog.check()
    assert "\n" not in str(error.value)


def is_dead(ray, handle) -> bool:
    try:
        ray.get(handle.ping.remote(), timeout=SOON)
    except RayActorError:
        return True
    return False


@pytest.mark.slow
def test_a_death_ends_the_trainers_too(ray, actor):
    segmenter, go = actor("segmenter", busy=True)
    trainers = [actor(f"trainer {i}")[0] for i in range(2)]
    watchdog = Watchdog({"segmenter": segmenter.ping.remote}, trainers, seconds=0.01)
    watchdog.start()
    eventually(lambda: pings(go) == 1)
    assert watchdog.cause is None and not any(is_dead(ray, trainer) for trainer in trainers)
    ray.kill(segmenter)
    eventually(lambda: all(is_dead(ray, trainer) for trainer in trainers))
    assert "segmenter died" in str(watchdog.cause)


@pytest.mark.slow
def test_a_stopped_watchdog_kills_nothing(ray, actor):
    (segmenter, go), (trainer, _) = actor("segmenter"), actor("trainer")
    watchdog = Watchdog({"segmenter": segmenter.ping.remote}, [trainer], seconds=0.01)
    watchdog.start()
    eventually(lambda: pings(go) > 1)
    watchdog.stop()
    time.sleep(0.2)  # a round that had begun
    ray.kill(segmenter)
    eventually(lambda: is_dead(ray, segmenter))
    time.sleep(0.2)
    assert watchdog.cause is None and not is_dead(ray, trainer)


def test_a_process_that_ray_killed_for_memory_is_reported_with_what_to_lower():
    error = RayActorError(
        error_msg="3 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 127.0.0.1, "
        "ID: 77) was 22.65GB used / 23.54GB limit (0.962166) OOM kill reason: Memory usage 24091844608B exceeded"
    )
    cause = cause_of_death(error)
    assert cause.startswith("the machine's memory was full (22.65GB of 23.54GB); lower actor_rollout_ref.actor.ppo_max")
    assert "\n" not in cause


def test_a_process_that_the_kernel_killed_for_memory_is_distinguished_from_others(tmp_path):
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 4213\noom_kill 2\n")
    assert memory_kills(counters) == 2 and memory_kills(tmp_path / "none") is None
    error = RayActorError(
        error_msg="The worker died unexpectedly: killed by SIGKILL by OOM killer, or ray stop --force"
    )
    assert "because the memory was full; lower" in cause_of_death(error, 1, counters)
    assert "ray stop --force" in cause_of_death(error, 2, counters)
    assert "ray stop --force" in cause_of_death(error, None, counters)

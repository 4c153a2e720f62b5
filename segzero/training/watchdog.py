"""Watchdog for the run's processes.

Ray reports a dead actor only to its callers, and a trainer that waits for another actor calls nobody. So a thread
calls all actors every few seconds. It notes the first dead one with its cause, and ends the trainers: they may be
waiting for the dead one, such as a replica that never takes their weights, and the run for them.

>>> Watchdog({}).check()
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segzero.errors import UserError

VMSTAT = Path("/proc/vmstat")


# Ways to need less memory, the cheapest change first.
LESS_HOST_MEMORY = (
    "lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu or data.max_response_length, turn off "
    "actor_rollout_ref.actor.fsdp_config.param_offload and optimizer_offload where the GPUs have room, or use LoRA "
    "(actor_rollout_ref.model.lora_rank); dry_run=true estimates what a run needs"
)
_RAY_KILLED = re.compile(r"low on memory\. Memory on the node .*? was (?P<used>\S+) used / (?P<limit>\S+) limit")
_KILLED = re.compile(r"SIGKILL|exit code 137|OOM killer")


def memory_kills(counters: Path) -> int | None:
    """Number of processes that the kernel has killed for memory since it booted; None if it does not say."""
    try:
        lines = dict(line.split() for line in counters.read_text().splitlines())
        return int(lines["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None


KILLS_BEFORE = memory_kills(VMSTAT)  # when this process started: Ray does not know about the kernel's kills


def cause_of_death(error: BaseException, kills_before: int | None = KILLS_BEFORE, counters: Path = VMSTAT) -> str:
    """Ray's reason for a dead process in one line; if it was killed for memory, with the settings to lower."""
    reason = " ".join(str(error).split())
    killed = _RAY_KILLED.search(reason)
    if killed:
        return f"the machine's memory was full ({killed['used']} of {killed['limit']}); {LESS_HOST_MEMORY}"
    kills = memory_kills(counters)
    if _KILLED.search(reason) and kills is not None and kills_before is not None and kills > kills_before:
        return f"the kernel ended a process because the memory was full; {LESS_HOST_MEMORY}"
    return reason


class Watchdog:
    """Calls actors from a thread, every `seconds`; `pings` are calls, by the actor's name, that return while it lives.

    The `trainers` are killed when any of the actors is dead.
    """

    def __init__(
        self, pings: Mapping[str, Callable[[], Any]], trainers: Sequence[Any] = (), seconds: float = 5.0
    ) -> None:
        self.pings, self.trainers, self.seconds = pings, trainers, seconds
        self.cause: UserError | None = None
        self._pending: dict[str, Any] = {}  # calls without a reply so far
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop the thread, before Ray is shut down."""
        self._stopped.set()

    def check(self) -> None:
        """Raise the cause if an actor is dead; cheap."""
        if self.cause is not None:
            raise self.cause

    def ping(self) -> None:
        """Call each actor that has replied to its last call, and note the first that is dead."""
        import ray
        from ray.exceptions import RayError

        for name, ping in self.pings.items():
            if name not in self._pending:
                self._pending[name] = ping()
            ready, _ = ray.wait([self._pending[name]], timeout=0)
            if not ready:  # busy actors reply late; dead ones at once, with an error
                continue
            try:
                ray.get(self._pending.pop(name))
            except RayError as error:
                cause = cause_of_death(error)
                self.cause = UserError(f"{name} died, so the run ends; the last checkpoint is whole. Cause: {cause}")
                return

    def _run(self) -> None:
        import ray

        while self.cause is None:
            if self._stopped.wait(self.seconds):
                return
            self.ping()
        for trainer in self.trainers:
            ray.kill(trainer)

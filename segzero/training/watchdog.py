"""Dead processes: Ray says so only to whoever asks, and a trainer that waits for another actor asks nobody.

So a thread asks all of them now and then. A dead one is noted with its cause, and the trainers are ended with it:
they may be waiting for the dead one, as for a replica that never takes their weights, and the run for them.

>>> Watch({}).check()
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segzero.errors import UserError

EVERY = 5.0  # s between two questions to the same actor


# What needs less memory, the cheapest change first.
LESS_HOST_MEMORY = (
    "lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu or data.max_response_length, turn off "
    "actor_rollout_ref.actor.fsdp_config.param_offload and optimizer_offload where the GPUs have room, or use LoRA "
    "(actor_rollout_ref.model.lora_rank); dry_run=true estimates what a run needs"
)
_RAY_KILLED = re.compile(r"low on memory\. Memory on the node .*? was (?P<used>\S+) used / (?P<limit>\S+) limit")
_KILLED = re.compile(r"SIGKILL|exit code 137|OOM killer")


def memory_kills(counters: Path = Path("/proc/vmstat")) -> int | None:
    """Processes that the kernel has ended for memory since it started; None where it does not say."""
    try:
        lines = dict(line.split() for line in counters.read_text().splitlines())
        return int(lines["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None


KILLS_BEFORE = memory_kills()  # when this process started: Ray does not know what the kernel ended, and why


def cause_of_death(error: BaseException, kills_before: int | None = KILLS_BEFORE) -> str:
    """Ray's reason for a dead process in one line; for one that was killed for memory, with what to lower."""
    said = " ".join(str(error).split())
    found = _RAY_KILLED.search(said)
    if found:
        return f"the machine's memory was full ({found['used']} of {found['limit']}); {LESS_HOST_MEMORY}"
    kills = memory_kills()
    if _KILLED.search(said) and kills is not None and kills_before is not None and kills > kills_before:
        return f"the kernel ended a process because the memory was full; {LESS_HOST_MEMORY}"
    return said


class Watch:
    """`asks` are calls to actors, by name, that return something as long as all is well."""

    def __init__(self, asks: Mapping[str, Callable[[], Any]], trainers: Sequence[Any] = ()) -> None:
        self.asks, self.trainers = asks, trainers
        self.cause: UserError | None = None
        self._asked: dict[str, Any] = {}
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Before Ray is shut down."""
        self._stopped.set()

    def check(self) -> None:
        """Raise what was noticed; cheap."""
        if self.cause is not None:
            raise self.cause

    def look(self) -> None:
        """Ask whoever has answered the last question, and hear those who have answered."""
        import ray
        from ray.exceptions import RayError

        for name, ask in self.asks.items():
            if name not in self._asked:
                self._asked[name] = ask()
            ready, _ = ray.wait([self._asked[name]], timeout=0)
            if not ready:  # busy actors answer late; dead ones answer at once, with an error
                continue
            try:
                ray.get(self._asked.pop(name))
            except RayError as error:
                cause = cause_of_death(error)
                self.cause = UserError(f"{name} died, so the run ends; the last checkpoint is whole. Cause: {cause}")
                return

    def _run(self) -> None:
        import ray

        while self.cause is None:
            if self._stopped.wait(EVERY):
                return
            self.look()
        for trainer in self.trainers:
            ray.kill(trainer)

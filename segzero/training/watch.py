"""Dead processes: Ray says so only to whoever asks, and a trainer that waits for another actor asks nobody.

So a thread asks all of them now and then. A dead one is noted with its cause, and the trainers are ended with it:
they may be waiting for the dead one, as for a replica that never takes their weights, and the run for them.

>>> Watch({}).check()
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from segzero.errors import UserError

EVERY = 5.0  # s between two questions to the same actor


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
                cause = " ".join(str(error).split())
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

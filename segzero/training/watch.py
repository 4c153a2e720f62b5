"""Dead actors: Ray says so only to whoever asks, and a trainer that waits for answers asks nobody.

>>> Watch({}).check()
"""

import time
from typing import Any

from segzero.errors import UserError

EVERY = 5.0  # s between two questions to the same actor


class Watch:
    """Asks each actor now and then whether it lives, and raises with the cause when one does not."""

    def __init__(self, actors: dict[str, Any]) -> None:
        self.actors = actors
        self._asked: dict[str, Any] = {}
        self._next = 0.0

    def check(self) -> None:
        """Cheap to call often."""
        import ray
        from ray.exceptions import RayActorError

        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY
        for name, actor in self.actors.items():
            question = self._asked.setdefault(name, actor.__ray_ready__.remote())
            ready, _ = ray.wait([question], timeout=0)
            if not ready:  # busy actors answer late; dead ones answer at once, with an error
                continue
            del self._asked[name]
            try:
                ray.get(question)
            except RayActorError as error:
                cause = " ".join(str(error).split())
                raise UserError(
                    f"{name} died, so the run ends; the last checkpoint is whole. Cause: {cause}"
                ) from error

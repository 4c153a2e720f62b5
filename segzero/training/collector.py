"""Python's garbage collector while a process of a training imports its libraries, and afterwards.

Imports make a million objects and hardly any garbage, but the collector walks through them again and again, which is a
sixth of the time of an import. Importing this module makes it rare; Ray does so first in each worker.
"""

import gc

_USUAL = gc.get_threshold()
gc.set_threshold(50_000, 20, 100)


def collect_as_usual() -> None:
    """Collect as often as Python does, but never again what exists by now: the imported libraries."""
    gc.freeze()
    gc.set_threshold(*_USUAL)

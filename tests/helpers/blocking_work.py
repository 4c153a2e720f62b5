"""Work for a queue that needs no models, and that a test can hold up."""

import threading


class BlockingWork:
    """Functions over lists of items; `block` waits until a test sets `release`."""

    def __init__(self) -> None:
        self.begun, self.release = threading.Event(), threading.Event()
        self.blocked, self.calls = [], []  # items of each call of `block`, and of the others

    def block(self, items):
        self.blocked.append(items)
        self.begun.set()
        assert self.release.wait(10)
        return items

    def double(self, items):
        self.calls.append(items)
        return [2 * item for item in items]

    def negate(self, items):
        self.calls.append(items)
        return [-item for item in items]

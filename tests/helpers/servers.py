"""A real server in a thread, on a port of its own, and ways to hold its models still."""

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from segzero.pipeline import SegZeroPipeline
from segzero.serving.app import create_app
from segzero.serving.limits import Limits, Tokens
from segzero.serving.model_pool import Models
from segzero.serving.options import Extras
from segzero.serving.server import bind, make_server


@dataclass
class Running:
    """A server, and the models behind it."""

    url: str
    models: Models
    server: uvicorn.Server
    thread: threading.Thread
    go: threading.Event = field(default_factory=threading.Event)  # ends `held` early

    def http(self, token: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The models do nothing else meanwhile."""
        begun, go = threading.Event(), self.go
        go.clear()
        self.models.batcher.submit(lambda items: [(begun.set(), go.wait(30))], None)
        assert begun.wait(10)
        try:
            yield
        finally:
            go.set()


@contextmanager
def running(
    pipeline: SegZeroPipeline, limits: Limits = Limits(), tokens: Tokens = Tokens(), extras: Extras = Extras()
) -> Iterator[Running]:
    """Serve until the block ends."""
    app, address = create_app(pipeline, limits, tokens, extras), bind("127.0.0.1", 0)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [address]})
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield Running(f"http://127.0.0.1:{address.getsockname()[1]}", app.state.models, server, thread)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not end"


def wait_until(done, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def events(lines: Iterable[str]) -> list[tuple[str, Any]]:
    """Names and data of server-sent events."""
    found, name = [], ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((name, json.loads(line.removeprefix("data: "))))
    return found

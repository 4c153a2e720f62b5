"""Real servers: in a thread, whose models can be kept from answering, and in a process of its own."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from segzero.pipeline import SegZeroPipeline
from segzero.serving.app import create_app
from segzero.serving.batching import BatchKey
from segzero.serving.limits import Limits, Tokens
from segzero.serving.model_pool import ModelPool
from segzero.serving.options import ServerOptions
from segzero.serving.server import bind, make_server


@dataclass
class RunningServer:
    """A server and its models."""

    url: str
    pool: ModelPool
    server: uvicorn.Server
    thread: threading.Thread
    release: threading.Event = field(default_factory=threading.Event)  # ends `models_blocked` early

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for sockets."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def http(self, token: str | None = None) -> httpx.Client:
        """A client, which sends the token if there is one."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    @contextmanager
    def models_blocked(self) -> Iterator[None]:
        """Keep the thread of the models busy, so that requests wait in the queue."""
        begun, release = threading.Event(), self.release
        release.clear()
        self.pool.batcher.submit(BatchKey("block", "test"), lambda items: [(begun.set(), release.wait(30))], None)
        assert begun.wait(10)
        try:
            yield
        finally:
            release.set()


@contextmanager
def running(
    pipeline: SegZeroPipeline,
    limits: Limits = Limits(),
    tokens: Tokens = Tokens(),
    options: ServerOptions = ServerOptions(),
) -> Iterator[RunningServer]:
    """Serve until the block ends."""
    app, address = create_app(pipeline, limits, tokens, options), bind("127.0.0.1", 0)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [address]})
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield RunningServer(f"http://127.0.0.1:{address.getsockname()[1]}", app.state.server.pool, server, thread)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not end"


@dataclass
class ServerProcess:
    """`segzero serve` in a process of its own."""

    url: str
    process: subprocess.Popen
    log: Path


@contextmanager
def server_processes(folder: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Yield a function that runs `segzero serve` with options and waits until it is ready; kills it at the end.

    Its `files` is how many files the process may open.
    """
    processes: list[subprocess.Popen] = []

    def start(*options: str, backend: str = "transformers", files: int | None = None) -> ServerProcess:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        limited = [] if files is None else ["prlimit", f"--nofile={files}:{files}"]
        command = [*limited, sys.executable, "-m", "segzero", "serve", "--port", str(port), "--policy-backend", backend]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([*command, *options], stdout=log, stderr=log, cwd=Path.cwd())
        processes.append(process)
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is not None or _is_ready(url), 180)
        return ServerProcess(url, process, folder / "log")

    try:
        yield start
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url + "/readyz").status_code == 200
    except httpx.TransportError:
        return False


def wait_until(done, seconds: float = 10) -> None:
    """Wait until `done()` is true; fail after that many seconds."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def events(lines: Iterable[str]) -> list[tuple[str, Any]]:
    """Parse server-sent events to pairs of name and data."""
    parsed, name = [], ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            parsed.append((name, json.loads(line.removeprefix("data: "))))
    return parsed

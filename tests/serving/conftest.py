"""A server in this process for tests that leave it as it was, and one in a process of its own."""

import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.helpers import servers
from tests.helpers.servers import wait_until


@pytest.fixture(scope="module")
def server(pipeline):
    """A server without tokens."""
    with servers.running(pipeline) as running:
        yield running


@pytest.fixture
def started(tmp_path):
    """A function that runs `segzero serve` in a process; it returns the URL, the process and its log file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", tmp_path / "log"
    processes = []

    def start(
        *arguments: str, backend: str = "transformers", files: int | None = None
    ) -> tuple[str, subprocess.Popen, Path]:
        limited = [] if files is None else ["prlimit", f"--nofile={files}:{files}"]
        command = [*limited, sys.executable, "-m", "segzero", "serve", "--port", str(port), "--policy-backend", backend]
        with log.open("wb") as file:
            processes.append(subprocess.Popen([*command, *arguments], stdout=file, stderr=file, cwd=Path.cwd()))
        wait_until(lambda: processes[0].poll() is not None or ready(url), 180)
        return url, processes[0], log

    yield start
    for process in processes:
        process.kill()
        process.wait()


def ready(url: str) -> bool:
    try:
        return httpx.get(url + "/readyz").status_code == 200
    except httpx.TransportError:
        return False

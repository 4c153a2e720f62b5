"""`segzero serve` in a process of its own, with its memory and CPU time.

>>> with serving(Path("soak"), ["--seconds", "10"]) as server:                             # doctest: +SKIP
...     httpx.get(server.url + "/healthz")
"""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

READY = 180  # seconds until the models must be loaded
ENDING = 60  # seconds from SIGTERM to the end at most


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Base URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for sockets."""
        return "127.0.0.1", self.port

    def tree(self) -> list[psutil.Process]:
        """List the server's process and its descendants; none after it has ended."""
        with suppress(psutil.Error):
            if self.process.poll() is None:
                top = psutil.Process(self.process.pid)
                return [top, *top.children(recursive=True)]
        return []

    def memory(self) -> int:
        """Measure the memory in bytes: the proportional set size (PSS), or the resident size if there is no PSS."""
        return sum(_pss(process) for process in self.tree())

    def peak(self) -> int:
        """Read the largest resident size in bytes since `forget_peak`, as the kernel records it."""
        return sum(_peak(process) for process in self.tree())

    def forget_peak(self) -> None:
        """Reset the peak (Linux)."""
        for process in self.tree():
            with suppress(OSError):
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")

    def processor(self) -> float:
        """Sum up the CPU seconds so far."""
        with suppress(psutil.Error):
            return sum(sum(process.cpu_times()[:2]) for process in self.tree())
        return 0.0

    def healthy(self) -> bool:
        """True if the server and its models answer."""
        try:
            answers = [httpx.get(self.url + path, timeout=10).status_code for path in ("/healthz", "/readyz")]
        except httpx.HTTPError:
            return False
        return answers == [200, 200]

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def start(folder: Path, arguments: Sequence[str], port: int = 0) -> Server:
    """Start a server with the shipped models; its output goes to server.log in `folder`."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "segzero", "serve", "--port", str(port), "--policy-backend", "transformers"]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [*command, *arguments], stdout=file, stderr=file, env=environment(), start_new_session=True
        )
    return Server(process, port, log)


def wait_until_ready(server: Server) -> None:
    """Wait until the models are loaded; a server that ends before is an error."""
    deadline = time.monotonic() + READY
    while time.monotonic() < deadline and server.process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(server.url + "/readyz", timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"the server did not become ready; its log ends with\n{server.log.read_text()[-2000:]}")


@contextmanager
def serving(folder: Path, arguments: Sequence[str], port: int = 0) -> Iterator[Server]:
    """Run a server until the block ends."""
    server = start(folder, arguments, port)
    try:
        wait_until_ready(server)
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


class MemoryWatch:
    """Sampler of a server's memory each second, which keeps the largest value."""

    def __init__(self, server: Server) -> None:
        self.server, self.most, self._over = server, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self.server.forget_peak()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(1):
            self.most = max(self.most, self.server.memory())


def environment() -> dict[str, str]:
    """Environment with one thread per process, as several share the cores, and without the hub."""
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    return quiet | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"} | os.environ


def _pss(process: psutil.Process) -> int:
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        return int(re.findall(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[0]) * 1024
    except (OSError, IndexError):
        with suppress(psutil.Error):
            return process.memory_info().rss
        return 0


def _peak(process: psutil.Process) -> int:
    try:
        [most] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        return int(most) * 1024
    except (OSError, ValueError):
        return _pss(process)

"""`segzero serve` in a process of its own, and its use of memory and processor.

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

READY = 180  # seconds until the models are loaded
ENDING = 60  # seconds from SIGTERM to the end


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen
    port: int
    log: Path

    @property
    def url(self) -> str:
        """The base address of requests."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for sockets."""
        return "127.0.0.1", self.port

    def tree(self) -> list[psutil.Process]:
        """The process and its children; empty once it has ended."""
        with suppress(psutil.Error):
            if self.process.poll() is None:
                top = psutil.Process(self.process.pid)
                return [top, *top.children(recursive=True)]
        return []

    def memory(self) -> int:
        """Bytes in use now: the proportional share (PSS) of each page, or resident bytes where that is unknown."""
        return sum(_pss(process) for process in self.tree())

    def peak(self) -> int:
        """The most resident bytes since `reset_peak`; the system counts, so no short peak is missed."""
        return sum(_peak(process) for process in self.tree())

    def reset_peak(self) -> None:
        """Reset the peak (Linux)."""
        for process in self.tree():
            with suppress(OSError):
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")

    def processor(self) -> float:
        """Seconds of processor time so far."""
        with suppress(psutil.Error):
            return sum(sum(process.cpu_times()[:2]) for process in self.tree())
        return 0.0

    def healthy(self) -> bool:
        """Whether the process and its models answer."""
        try:
            answers = [httpx.get(self.url + path, timeout=10).status_code for path in ("/healthz", "/readyz")]
        except httpx.HTTPError:
            return False
        return answers == [200, 200]

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def start(folder: Path, arguments: Sequence[str], port: int = 0) -> Server:
    """Start a server with the shipped models; its log is in `folder`."""
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
    raise SystemExit(f"the server did not get ready; its log ends with\n{server.log.read_text()[-2000:]}")


@contextmanager
def serving(folder: Path, arguments: Sequence[str], port: int = 0) -> Iterator[Server]:
    """Serve until the block ends."""
    server = start(folder, arguments, port)
    try:
        wait_until_ready(server)
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


class MemoryWatch:
    """Measures a server's memory each second, and keeps the maximum."""

    def __init__(self, server: Server) -> None:
        self.server, self.most, self._over = server, 0, threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self.server.reset_peak()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _measure(self) -> None:
        while not self._over.wait(1):
            self.most = max(self.most, self.server.memory())


def environment() -> dict[str, str]:
    """Environment with one thread per process, as several share the cores, and without a hub."""
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

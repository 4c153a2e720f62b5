"""A server's process: bind, serve until SIGTERM or until the models fail, and write the log.

On SIGTERM the requests inside are finished first.

>>> serve(create_app(pipeline), bind("127.0.0.1", 8000))                      # doctest: +SKIP
"""

import ipaddress
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from segzero.errors import UserError
from segzero.serving.http_protocol import BoundedHttp
from segzero.serving.model_pool import ModelPool

log = logging.getLogger("segzero.serving")
UNREAD = 60_000  # milliseconds for which a client may read nothing of a response, which is held in memory
HEAD = 10.0  # seconds for the head of a request, from the connection or the previous response
SILENT = 512  # connections without a request at once; fewer where a process may open few files
FILES = 4096  # file descriptors that the server allows itself, if the system does
STUCK = 5  # times the seconds of a request after which a batch is taken to hang


def bind(host: str, port: int) -> socket.socket:
    """Bind the address; it is done before the models are loaded, so that a port in use is reported at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sets TCP_NODELAY only where the protocol is given; without it small responses wait.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it; macOS has none
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD)
        listening.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot serve at {host}:{port}: {reason}; choose another --host or --port") from error
    return listening


def is_loopback(host: str) -> bool:
    """Whether a server at that host can be reached from this machine only."""
    try:
        addresses = {address[0] for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        return all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in addresses)
    except (OSError, ValueError):
        return False


def serve(app: FastAPI, address: socket.socket) -> None:
    """Serve until a signal comes; raises a UserError if the models fail."""
    pool: ModelPool = app.state.server.pool
    if threading.current_thread() is threading.main_thread():
        # uvicorn raises SIGTERM again once all is done; a shutdown that went well should not end by a signal.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        make_server(app).run(sockets=[address])
    finally:
        if failure := pool.failure:
            log.error("models gone", extra={"fields": {"why": failure}})
        if pool.busy():  # with abandoned work; its thread can't be ended, and Python would wait for it
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1 if failure else 0)
    if failure:
        raise UserError(f"the models are gone: {failure}; start the server again")


def make_server(app: FastAPI) -> uvicorn.Server:
    """Set up uvicorn so that it ends when the models fail."""
    state = app.state.server
    seconds = state.limits.seconds
    config = uvicorn.Config(
        app,
        http=BoundedHttp,
        ws="none",
        loop="asyncio",  # without free file descriptors new connections wait; uvloop drops them
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(seconds) + 5,
        lifespan="on",
    )
    return _Server(config, state.pool, STUCK * seconds)


def _raise_file_limit() -> int:
    """Allow this process more open files if the system does; returns how many, connections included."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return FILES
    wanted = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return soft


class _Server(uvicorn.Server):
    """uvicorn that closes silent connections and ends when the models fail or hang."""

    def __init__(self, config: uvicorn.Config, pool: ModelPool, stuck: float) -> None:
        super().__init__(config)
        self.pool, self.stuck = pool, stuck  # seconds
        self._silent: dict[BoundedHttp, tuple[object, float]] = {}
        self._max_silent = min(SILENT, _raise_file_limit() // 4)

    async def on_tick(self, counter: int) -> bool:
        """Tell uvicorn whether to end; it asks ten times a second."""
        since = self.pool.busy_since()
        if since is not None and time.monotonic() - since > self.stuck:
            self.pool.fail(f"a batch has not ended within {self.stuck:g} s")
        self._close_silent(time.monotonic())
        return await super().on_tick(counter) or bool(self.pool.failure)

    def _close_silent(self, now: float) -> None:
        """Close connections that have not sent the head of a request for too long, and the oldest of too many."""
        before, self._silent = self._silent, {}
        for connection in self.server_state.connections:
            assert isinstance(connection, BoundedHttp)
            if connection.is_silent():
                answered, since = before.get(connection, (None, now))
                since = since if answered is connection.cycle else now
                self._silent[connection] = (connection.cycle, since)
        oldest = sorted(self._silent, key=lambda connection: self._silent[connection][1])
        for place, connection in enumerate(oldest):
            seconds = now - self._silent[connection][1]  # 0: it has had no chance yet
            if seconds > HEAD or (seconds and len(oldest) - place > self._max_silent):
                connection.transport.close()


class JsonFormatter(logging.Formatter):
    """Log records as JSON lines; `extra={"fields": {...}}` adds fields to one."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)), "level": record.levelname}
        line |= {"event": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logs() -> None:
    """Send the server's own log and uvicorn's to standard error, as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("segzero.serving", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)

"""A server's life: bind, serve, and end well: on SIGTERM with every answer it owes, without models at once.

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
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from segzero.errors import UserError
from segzero.serving.model_pool import Models

log = logging.getLogger("segzero.serving")
UNREAD = 60_000  # milliseconds that a client may take nothing of what is sent to it: it is held in memory
HEAD = 10.0  # seconds for the head of a request, from the connection or the answer before
SILENT = 512  # connections without a request at once; fewer where a process may open few files
FILES = 4096  # that the server allows itself to have open, if the system lets it
STUCK = 5  # times the seconds a request may take: a batch that needs longer will not end


def bind(host: str, port: int) -> socket.socket:
    """The address, taken before the models are loaded: that it is in use is better known at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio looks: else small answers wait
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it; macOS has none
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD)
        taken.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot serve at {host}:{port}: {reason}; choose another --host or --port") from error
    return taken


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is served at that host."""
    try:
        found = {address[0] for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        return all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in found)
    except (OSError, ValueError):
        return False


def serve(app: FastAPI, address: socket.socket) -> None:
    """Until a signal comes, or the models die: then this raises."""
    models: Models = app.state.models
    if threading.current_thread() is threading.main_thread():
        # uvicorn raises it again once all is done; what was asked for and went well is no death by a signal.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        make_server(app).run(sockets=[address])
    finally:
        if why := models.batcher.why_dead:
            log.error("models gone", extra={"fields": {"why": why}})
        if models.busy():  # with what nobody waits for; its thread can't be ended, and Python would wait for it
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1 if why else 0)
    if why:
        raise UserError(f"the models are gone: {why}; start the server again")


def make_server(app: FastAPI) -> uvicorn.Server:
    """uvicorn, which ends when the models do."""
    seconds = app.state.limits.seconds
    config = uvicorn.Config(
        app,
        http=BoundedHttp,
        ws="none",
        loop="asyncio",  # short of files it lets new connections wait; uvloop drops them
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(seconds) + 5,
        lifespan="on",
    )
    return _Server(config, app.state.models, STUCK * seconds)


def _open_files() -> int:
    """How many files this process may have open, connections among them: more than usual, if it may."""
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
    def __init__(self, config: uvicorn.Config, models: Models, stuck: float) -> None:
        super().__init__(config)
        self.models, self.stuck = models, stuck
        self._silent: dict[BoundedHttp, tuple[object, float]] = {}
        self._most_silent = min(SILENT, _open_files() // 4)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn asks ten times a second whether it is to end."""
        since = self.models.busy_since()
        if since is not None and time.monotonic() - since > self.stuck:
            self.models.die(f"a batch has not ended within {self.stuck:g} s")
        self._close_silent(time.monotonic())
        return await super().on_tick(counter) or bool(self.models.batcher.why_dead)

    def _close_silent(self, now: float) -> None:
        """Close connections that have not sent the head of a request for too long, or first if there are too many."""
        before, self._silent = self._silent, {}
        for connection in self.server_state.connections:
            assert isinstance(connection, BoundedHttp)
            if connection.is_silent():
                answered, since = before.get(connection, (None, now))
                since = since if answered is connection.cycle else now
                self._silent[connection] = (connection.cycle, since)
        oldest = sorted(self._silent, key=lambda connection: self._silent[connection][1])
        for place, connection in enumerate(oldest):
            silent = now - self._silent[connection][1]
            if silent > HEAD or (silent and len(oldest) - place > self._most_silent):  # 0: it has had no chance yet
                connection.transport.close()


HEAD_BYTES = 1 << 16  # of a request line with its headers, and of all headers with those behind the body
PIPELINED = 16  # requests that wait behind one that is being answered


class BoundedHttp(HttpToolsProtocol):
    """httptools itself has no bounds; h11, which has, takes a second for 256 KB that come in chunks of one byte."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._unused = self._headers = 0  # bytes since the last head or piece of a body was whole; of headers
        self._progress = False

    def data_received(self, data: bytes) -> None:
        """Pass data on to the parser, which calls the methods below."""
        self._progress = False
        super().data_received(data)
        self._unused = 0 if self._progress else self._unused + len(data)
        if self._unused > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The head of a request has more than {HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """Begin a request."""
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many requests without waiting for answers")  # the parser makes 400 of it
        self._headers = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header, which may also come behind a body in chunks."""
        self._headers += len(name) + len(value) + 4
        if self._headers > HEAD_BYTES:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request to the application."""
        self._progress = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand on a piece of the body."""
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body."""
        self._progress = True
        super().on_message_complete()

    def is_silent(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete


class JsonLines(logging.Formatter):
    """One object a record; `extra={"fields": {...}}` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)), "level": record.levelname}
        line |= {"event": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logs() -> None:
    """The server's own log and uvicorn's, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("segzero.serving", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)

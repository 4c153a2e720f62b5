"""A server's life: bind, serve, and end well: on SIGTERM with every answer it owes, without models at once.

>>> serve(create_app(pipeline), bind("127.0.0.1", 8000))                      # doctest: +SKIP
"""

import logging
import os
import signal
import socket
import sys
import threading
import time

import uvicorn
from fastapi import FastAPI

from segzero.errors import UserError
from segzero.serving.models import Models

log = logging.getLogger("segzero.serving")
UNREAD = 60_000  # milliseconds that a client may take nothing of what is sent to it: it is held in memory
STUCK = 5  # times the seconds a request may take: a batch that needs longer will not end


def bind(host: str, port: int) -> socket.socket:
    """The address, taken before the models are loaded: that it is in use is better known at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it; macOS has none
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD)
        taken.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot serve at {host}:{port}: {reason}; choose another --host or --port") from error
    return taken


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
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(seconds) + 5,
        lifespan="on",
    )
    return _Server(config, app.state.models, STUCK * seconds)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, models: Models, stuck: float) -> None:
        super().__init__(config)
        self.models, self.stuck = models, stuck

    async def on_tick(self, counter: int) -> bool:
        """uvicorn asks ten times a second whether it is to end."""
        since = self.models.busy_since()
        if since is not None and time.monotonic() - since > self.stuck:
            self.models.die(f"a batch has not ended within {self.stuck:g} s")
        return await super().on_tick(counter) or bool(self.models.batcher.why_dead)

"""Who may come in, how many at once, with how much and for how long; and a line in the log for each.

An ASGI middleware around the whole app. A client that is refused while it still sends is listened to for a while:
a connection closed under its hands would lose the answer.
"""

import asyncio
import ipaddress
import json
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segzero.serving.errors import ClientLeft, Problem, busy, timed_out
from segzero.serving.limits import Limits, Tokens
from segzero.serving.metrics import Metrics

log = logging.getLogger("segzero.serving")
GUARDED = ("/v1/", "/label-studio/", "/metrics")  # the rest says nothing about anybody
PLAIN = ("/v1/segment", "/v1/prompt", "/v1/dialogues", "/label-studio/predict", "/metrics")
LISTENING = 10.0  # seconds, to a client that has been refused and still sends
SILENCE = 0.5  # seconds, after which it is taken to send no more
LEFT = 499  # in logs only: a client that left gets no answer
GRACE = 0.2  # seconds beyond a request's time, in which whoever does its work can say more exactly why it ended
PIECE = 1 << 16  # bytes of an answer that are handed on at once: the next wait until the client has taken these


@dataclass
class _Visit:
    """One request."""

    scope: Scope
    receive: Receive
    send: Send
    most: int  # bytes
    ends: float  # of time.monotonic
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    began: float = field(default_factory=time.monotonic)
    read: int = 0  # bytes
    complete: bool = False  # the body is here
    status: int = 0  # of the answer, once begun
    patience: asyncio.Timeout | None = None  # of the work, then of the client that takes the answer

    def header(self, name: bytes) -> str:
        return next((value.decode("latin-1") for key, value in self.scope["headers"] if key == name), "")

    async def receive_within_limits(self) -> Message:
        if self.complete:
            return await self.receive()
        try:
            async with asyncio.timeout(self.ends - time.monotonic()):  # wait_for may swallow a cancellation
                message = await self.receive()
        except TimeoutError:
            raise Problem(408, "too_slow", "the body did not arrive in time") from None
        if message["type"] == "http.disconnect":
            raise ClientLeft
        self.read += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        if self.read > self.most:
            raise too_large(self.most)
        return message

    async def send_with_id(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message["headers"], (b"x-request-id", self.id.encode())]}
            if self.patience is not None:  # the client has as long again to take the answer
                seconds = 2 * self.ends - self.began - time.monotonic()
                self.patience.reschedule(asyncio.get_running_loop().time() + seconds)
        pieces = range(0, len(message.get("body", b"")) - PIECE, PIECE)
        for begin in pieces:
            await self.send({**message, "body": message["body"][begin : begin + PIECE], "more_body": True})
        if pieces:
            message = {**message, "body": message["body"][pieces[-1] + PIECE :]}
        await self.send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answer, then listen to the rest of the body."""
        if self.status:
            return  # an answer has begun: nothing can be added
        self.patience = None
        body = json.dumps(problem.body()).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **problem.headers}
        if not self.complete:
            headers["connection"] = "close"
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send_with_id({"type": "http.response.start", "status": problem.status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(LISTENING):
                while not self.complete:
                    async with asyncio.timeout(SILENCE):
                        message = await self.receive()
                    self.complete = message["type"] == "http.disconnect" or not message.get("more_body", False)
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


class Door:
    """`wait` tells how many seconds a client that is sent away should stay away."""

    def __init__(
        self, app: ASGIApp, limits: Limits, tokens: Tokens, metrics: Metrics, wait: Callable[[], float]
    ) -> None:
        self.app, self.limits, self.tokens, self.metrics, self.wait = app, limits, tokens, metrics, wait
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(GUARDED):
            await self.app(scope, receive, send)
            return
        visit = _Visit(scope, receive, send, self.limits.body, time.monotonic() + self.limits.seconds)
        works = scope["method"] == "POST" or path.startswith("/v1/dialogues/")
        entered = 0  # or 1; who is refused, and listened to, takes no place
        failed: Exception | None = None
        try:
            self._let_in(visit, works)
            self._count(entered := int(works))
            async with asyncio.timeout(self.limits.seconds + GRACE) as visit.patience:
                await self.app(scope, visit.receive_within_limits, visit.send_with_id)
        except Problem as problem:
            self._count(-entered)
            entered = 0
            await visit.refuse(problem)
        except (ClientLeft, ClientDisconnect):
            visit.status = LEFT
        except Exception as error:
            if isinstance(error, TimeoutError) and visit.patience is not None and visit.patience.expired():
                if visit.status:  # a client that does not take its answer is hung up on, as it stays incomplete
                    visit.status = LEFT
                else:
                    await visit.refuse(timed_out())
            else:
                failed = error
                said = f"a mistake of the server's; its log has it as {visit.id}"
                await visit.refuse(Problem(500, "internal", said))
        finally:
            self._count(-entered)
            if (large := scope.pop("segzero.large", None)) is not None:
                large.release()
            self._note(visit, failed)

    def _let_in(self, visit: _Visit, works: bool) -> None:
        owner = self.tokens.owner(visit.header(b"authorization"))
        if owner is None:
            headers = {"WWW-Authenticate": "Bearer"}
            raise Problem(401, "no_entry", "send a known token: Authorization: Bearer TOKEN", headers)
        check_origin(visit.scope, bool(self.tokens))
        visit.scope["segzero.owner"], visit.scope["segzero.ends"] = owner, visit.ends
        length = visit.header(b"content-length")
        if length.isdigit() and int(length) > self.limits.body:
            raise too_large(self.limits.body)
        if works and self.inside >= self.limits.inside:
            raise busy(self.wait())

    def _count(self, more: int) -> None:
        self.inside += more
        self.metrics.inside.set(self.inside)

    def _note(self, visit: _Visit, failed: Exception | None) -> None:
        seconds = time.monotonic() - visit.began
        path = visit.scope["path"]
        # Of paths that clients choose themselves there may be any number; who is refused has not met a route.
        path = getattr(visit.scope.get("route"), "path", path if path in PLAIN else "other")
        self.metrics.requests.labels(path, visit.status).inc()
        self.metrics.seconds.labels(path).observe(seconds)
        fields: dict[str, Any] = {"id": visit.id, "method": visit.scope["method"], "path": path}
        fields |= {"status": visit.status, "seconds": round(seconds, 4), "bytes": visit.read}
        log.log(logging.ERROR if failed else logging.INFO, "request", extra={"fields": fields}, exc_info=failed)


def too_large(most: int) -> Problem:
    """Of the body."""
    return Problem(413, "too_large", f"the body has more than {most} bytes")


HARMLESS = ("GET", "HEAD", "OPTIONS")  # they change nothing, and a foreign page can't read their answers


def check_origin(scope: Scope, has_tokens: bool) -> None:
    """Refuse what a foreign page sends."""
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if scope["method"] not in HARMLESS and _crosses(headers, host):
        said = "a page of another site may not use this server; a proxy between them has to pass the Host header on"
        raise Problem(403, "foreign_page", said)
    if not has_tokens and _is_this_machine(scope) and _is_public_name(host):
        said = "without --tokens this server is for this machine alone: ask it as 127.0.0.1 or localhost"
        raise Problem(403, "foreign_name", said)


def _crosses(headers: Headers, host: str) -> bool:
    """Browsers say so in Sec-Fetch-Site; over plain HTTP to another machine they say only where the page is from."""
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.lower().partition("://")[2] != host.lower()


def _is_this_machine(scope: Scope) -> bool:
    """Whether the client came by an address that leads nowhere else."""
    address, _ = scope.get("server") or ("", None)
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def _is_public_name(host: str) -> bool:
    """True for what may stand in the world's DNS: with a dot in it, and no address."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        ipaddress.ip_address(name)
        return False
    except ValueError:
        return "." in host and not host.partition(":")[0].endswith(".localhost")

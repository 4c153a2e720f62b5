"""ASGI middleware around the whole app: tokens, origins, limits, deadlines, metrics and a log line per request.

A client that is refused while it still sends its body is read from for a while: if its connection were closed at
once, it would lose the response.
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

from segzero.serving.errors import ApiError, ClientDisconnected, timed_out, too_many_requests
from segzero.serving.limits import Limits, Tokens
from segzero.serving.metrics import Metrics

log = logging.getLogger("segzero.serving")
GUARDED = ("/v1/", "/label-studio/", "/metrics")  # the other paths reveal nothing about anybody
FIXED_PATHS = ("/v1/segment", "/v1/prompt", "/v1/dialogues", "/label-studio/predict", "/metrics")
DRAIN = 10.0  # seconds for which the rest of a refused request's body is read
DRAIN_SILENCE = 0.5  # seconds without data after which a refused client is taken to send no more
CLIENT_LEFT = 499  # a status for the log and the metrics only: there was no response
GRACE = 0.2  # seconds beyond a request's deadline, in which its own code can report a more exact error
PIECE = 1 << 16  # bytes of a response that are sent at once: the next piece waits until the client has taken this


@dataclass
class _GuardedRequest:
    """One request while the middleware handles it; its receive and send keep the limits."""

    scope: Scope
    receive: Receive
    send: Send
    max_body: int  # bytes
    deadline: float  # time.monotonic
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    began: float = field(default_factory=time.monotonic)
    body_bytes: int = 0  # received so far
    body_complete: bool = False
    status: int = 0  # of the response, once it has begun
    timeout: asyncio.Timeout | None = None  # for the work, then for the client to take the response

    def header(self, name: bytes) -> str:
        return next((value.decode("latin-1") for key, value in self.scope["headers"] if key == name), "")

    async def receive_bounded(self) -> Message:
        """Receive a message; raises 408 or 413 if the body is too slow or too large."""
        if self.body_complete:
            return await self.receive()
        try:
            async with asyncio.timeout(self.deadline - time.monotonic()):  # wait_for may swallow a cancellation
                message = await self.receive()
        except TimeoutError:
            raise ApiError(408, "too_slow", "the body did not arrive in time") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        self.body_bytes += len(message.get("body", b""))
        self.body_complete = not message.get("more_body", False)
        if self.body_bytes > self.max_body:
            raise body_too_large(self.max_body)
        return message

    async def send_with_id(self, message: Message) -> None:
        """Send a message in pieces; the head of a response gets the request's id."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message["headers"], (b"x-request-id", self.id.encode())]}
            if self.timeout is not None:  # the client has as long again to take the response
                seconds = 2 * self.deadline - self.began - time.monotonic()
                self.timeout.reschedule(asyncio.get_running_loop().time() + seconds)
        pieces = range(0, len(message.get("body", b"")) - PIECE, PIECE)
        for begin in pieces:
            await self.send({**message, "body": message["body"][begin : begin + PIECE], "more_body": True})
        if pieces:
            message = {**message, "body": message["body"][pieces[-1] + PIECE :]}
        await self.send(message)

    async def refuse(self, error: ApiError) -> None:
        """Send an error response, then read the rest of the body."""
        if self.status:
            return  # a response has begun: nothing can be added
        self.timeout = None
        body = json.dumps(error.body()).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
        if not self.body_complete:
            headers["connection"] = "close"
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send_with_id({"type": "http.response.start", "status": error.status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN):
                while not self.body_complete:
                    async with asyncio.timeout(DRAIN_SILENCE):
                        message = await self.receive()
                    self.body_complete = message["type"] == "http.disconnect" or not message.get("more_body", False)
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


class GuardMiddleware:
    """Admit or refuse each request, bound it, and log it.

    `expected_wait` estimates in how many seconds a client that is refused for lack of room should come again.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, tokens: Tokens, metrics: Metrics, expected_wait: Callable[[], float]
    ) -> None:
        self.app, self.limits, self.tokens, self.metrics = app, limits, tokens, metrics
        self.expected_wait = expected_wait
        self.inside = 0  # requests that count against the limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request within the limits, or refuse it."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(GUARDED):
            await self.app(scope, receive, send)
            return
        deadline = time.monotonic() + self.limits.seconds
        request = _GuardedRequest(scope, receive, send, self.limits.body, deadline)
        counts = scope["method"] == "POST" or path.startswith("/v1/dialogues/")
        counted = 0  # or 1; a refused request, whose body is still read, does not count against the limit
        failure: Exception | None = None
        try:
            self._admit(request, counts)
            self._count(counted := int(counts))
            async with asyncio.timeout(self.limits.seconds + GRACE) as request.timeout:
                await self.app(scope, request.receive_bounded, request.send_with_id)
        except ApiError as error:
            self._count(-counted)
            counted = 0
            await request.refuse(error)
        except (ClientDisconnected, ClientDisconnect):
            request.status = CLIENT_LEFT
        except Exception as error:
            if isinstance(error, TimeoutError) and request.timeout is not None and request.timeout.expired():
                if request.status:  # the client does not take its response: the connection is closed, as it is cut off
                    request.status = CLIENT_LEFT
                else:
                    await request.refuse(timed_out())
            else:
                failure = error
                message = f"a mistake of the server's; its log has it as {request.id}"
                await request.refuse(ApiError(500, "internal", message))
        finally:
            self._count(-counted)
            if (semaphore := scope.pop("segzero.large_image", None)) is not None:
                semaphore.release()
            self._record(request, failure)

    def _admit(self, request: _GuardedRequest, counts: bool) -> None:
        """Check token, origin, announced length and room; note owner and deadline in the scope."""
        owner = self.tokens.owner(request.header(b"authorization"))
        if owner is None:
            headers = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, "no_entry", "send a known token: Authorization: Bearer TOKEN", headers)
        check_origin(request.scope, bool(self.tokens))
        request.scope["segzero.owner"], request.scope["segzero.deadline"] = owner, request.deadline
        request.scope["segzero.annotator"] = self.tokens.name(owner)
        length = request.header(b"content-length")
        if length.isdigit() and int(length) > self.limits.body:
            raise body_too_large(self.limits.body)
        if counts and self.inside >= self.limits.max_concurrent:
            raise too_many_requests(self.expected_wait())

    def _count(self, more: int) -> None:
        self.inside += more
        self.metrics.inside.set(self.inside)

    def _record(self, request: _GuardedRequest, failure: Exception | None) -> None:
        """Add a request to the metrics and the log."""
        seconds = time.monotonic() - request.began
        path = request.scope["path"]
        # Clients can make up any number of paths, so only known ones are named; a refused request has no route yet.
        path = getattr(request.scope.get("route"), "path", path if path in FIXED_PATHS else "other")
        self.metrics.requests.labels(path, request.status).inc()
        self.metrics.seconds.labels(path).observe(seconds)
        fields: dict[str, Any] = {"id": request.id, "method": request.scope["method"], "path": path}
        fields |= {"status": request.status, "seconds": round(seconds, 4), "bytes": request.body_bytes}
        log.log(logging.ERROR if failure else logging.INFO, "request", extra={"fields": fields}, exc_info=failure)


def body_too_large(max_body: int) -> ApiError:
    """Error 413 for a body of more than `max_body` bytes."""
    return ApiError(413, "too_large", f"the body has more than {max_body} bytes")


SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # they change nothing, and a foreign page can't read their answers


def check_origin(scope: Scope, has_tokens: bool) -> None:
    """Refuse requests that a page of another site sends through a visitor's browser."""
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if scope["method"] not in SAFE_METHODS and _is_cross_site(headers, host):
        message = "a page of another site may not use this server; a proxy between them has to pass the Host header on"
        raise ApiError(403, "foreign_page", message)
    if not has_tokens and _came_by_loopback(scope) and _is_public_name(host):
        message = "without --tokens this server is for this machine alone: ask it as 127.0.0.1 or localhost"
        raise ApiError(403, "foreign_name", message)


def _is_cross_site(headers: Headers, host: str) -> bool:
    """Whether a browser sent the request for a page of another site.

    Browsers send Sec-Fetch-Site; over plain HTTP to another machine they send the Origin of the page alone.
    """
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.lower().partition("://")[2] != host.lower()


def _came_by_loopback(scope: Scope) -> bool:
    """Whether the client connected to a loopback address, which only this machine can reach."""
    address, _ = scope.get("server") or ("", None)
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def _is_public_name(host: str) -> bool:
    """Whether a Host header may be a public DNS name: it contains a dot and is not an IP address."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        ipaddress.ip_address(name)
        return False
    except ValueError:
        return "." in host and not host.partition(":")[0].endswith(".localhost")

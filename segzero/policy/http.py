"""Requests to a policy server: answers come whole within one deadline, of bounded size, and from nobody else.

A socket's time-out begins anew with each byte that comes, and urllib follows redirects with the key in its hand;
neither is so here.
"""

import io
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from typing import Any, Protocol

MOST_BYTES = 32 << 20  # of an answer; the longest that a policy writes are some 100 kB
MOST_LINE = 4 << 20


class TooLarge(Exception):
    """An answer goes on beyond what can be meant; says how far."""


class Readable(Protocol):
    """A response, or an error that holds one."""

    def read(self, amount: int, /) -> bytes: ...


def open_request(request: urllib.request.Request, seconds: float) -> HTTPResponse:
    """The server's answer, to be read within `seconds` from now; what is no success is an HTTPError."""
    return urllib.request.build_opener(_HTTP, _HTTPS, _NoRedirects).open(request, timeout=seconds)


def read_whole(response: Readable) -> bytes:
    """All of a body."""
    content = response.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise TooLarge(f"more than {MOST_BYTES >> 20} MiB")
    return content


def read_lines(response: HTTPResponse) -> Iterator[bytes]:
    """The lines of a body, while they come."""
    taken = 0
    while line := response.readline(MOST_LINE + 1):
        taken += len(line)
        if len(line) > MOST_LINE:
            raise TooLarge(f"a line of more than {MOST_LINE >> 20} MiB")
        if taken > MOST_BYTES:
            raise TooLarge(f"more than {MOST_BYTES >> 20} MiB")
        yield line


class _Within(io.RawIOBase):
    """What a socket receives until a moment; stands where HTTPResponse expects the socket itself."""

    def __init__(self, sock: socket.socket, ends: float) -> None:
        self.sock, self.received, self.ends = sock, sock.makefile("rb", buffering=0), ends

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)
        return self.received.readinto(buffer)

    def close(self) -> None:
        self.received.close()
        super().close()


class _Deadline(urllib.request.AbstractHTTPHandler):
    """Counts a request's time-out from its beginning to its answer's last byte."""

    def do_open(self, http_class: Callable[..., HTTPConnection], req: urllib.request.Request, **options: Any) -> Any:
        ends = time.monotonic() + (req.timeout or 0.0)

        def connection(host: str, **more: Any) -> HTTPConnection:
            opened = http_class(host, **more)
            opened.response_class = lambda sock, **told: HTTPResponse(_Within(sock, ends), **told)  # type: ignore
            return opened

        return super().do_open(connection, req, **options)


class _HTTP(_Deadline, urllib.request.HTTPHandler):
    pass


class _HTTPS(_Deadline, urllib.request.HTTPSHandler):
    pass


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> None:
        """Leave it the error that it is."""

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

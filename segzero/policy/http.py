"""HTTP requests to a policy server, with a deadline for the whole answer, a bound on its size and no redirects.

A socket's time-out starts again with each byte that comes, and urllib would send the key wherever a redirect leads.
"""

import io
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from typing import Any, Protocol

MOST_BYTES = 32 << 20  # per answer; a policy's longest are some 100 kB
MOST_LINE = 4 << 20  # bytes


class TooLarge(Exception):
    """An answer is larger than any policy's; the message says by how much."""


class Readable(Protocol):
    """A response, or an error that contains one."""

    def read(self, amount: int, /) -> bytes: ...


def open_request(request: urllib.request.Request, seconds: float) -> HTTPResponse:
    """Send a request and return the response, to be read within `seconds` from now; HTTPError unless it succeeds."""
    return urllib.request.build_opener(_HTTP, _HTTPS, _NoRedirects).open(request, timeout=seconds)


def read_whole(response: Readable) -> bytes:
    """Read a whole body."""
    content = response.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise TooLarge(f"more than {MOST_BYTES >> 20} MiB")
    return content


def read_lines(response: HTTPResponse) -> Iterator[bytes]:
    """Read a body line by line, as it arrives."""
    taken = 0
    while line := response.readline(MOST_LINE + 1):
        taken += len(line)
        if len(line) > MOST_LINE:
            raise TooLarge(f"a line of more than {MOST_LINE >> 20} MiB")
        if taken > MOST_BYTES:
            raise TooLarge(f"more than {MOST_BYTES >> 20} MiB")
        yield line


class _DeadlineReader(io.RawIOBase):
    """Reads from a socket until a deadline; HTTPResponse uses it in place of the socket."""

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
    """Handler whose time-out covers the request from its start to the last byte of the answer."""

    def do_open(self, http_class: Callable[..., HTTPConnection], req: urllib.request.Request, **options: Any) -> Any:
        ends = time.monotonic() + (req.timeout or 0.0)

        def connection(host: str, **more: Any) -> HTTPConnection:
            opened = http_class(host, **more)
            opened.response_class = lambda sock, **options: HTTPResponse(_DeadlineReader(sock, ends), **options)  # type: ignore
            return opened

        return super().do_open(connection, req, **options)


class _HTTP(_Deadline, urllib.request.HTTPHandler):
    pass


class _HTTPS(_Deadline, urllib.request.HTTPSHandler):
    pass


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> None:
        """Treat a redirect as an error."""

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

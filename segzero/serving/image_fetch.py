"""Fetching of images by address, for clients that may be hostile: no address of a private network is reached.

The name is resolved once, all its addresses must be public, and the connection goes to an address that was checked: a
second look-up could give another one. The same holds for each redirect. Bytes and seconds are bounded.

>>> fetch("http://127.0.0.1/cat.png")
Traceback (most recent call last):
segzero.errors.UserError: 127.0.0.1 is no public address, so nothing is fetched from it
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import SplitResult, urljoin, urlsplit

from segzero.errors import UserError

REDIRECTS = 3
CHUNK = 1 << 16
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 addresses embedded in IPv6
MOVED = {301, 302, 303, 307, 308}

Fetch = Callable[[str, int], bytes]  # address, most bytes
IsAllowed = Callable[[str], bool]  # of an IP address


def is_public(address: str) -> bool:
    """Whether an IP address can be reached by anybody on the internet.

    >>> [is_public(address) for address in ("1.1.1.1", "10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254")]
    [True, False, False, False]
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded:
            return is_public(str(embedded))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def fetch(
    url: str,
    max_bytes: int = 32 << 20,
    seconds: float = 20.0,
    is_allowed: IsAllowed = is_public,
    headers: Mapping[str, str] | None = None,
    redirects: int = REDIRECTS,
) -> bytes:
    """Fetch at most `max_bytes` within `seconds`; `headers` go to the first address, not to where it redirects."""
    deadline = time.monotonic() + seconds
    own_headers = dict(headers or {})
    for _ in range(redirects + 1):
        parts = _split(url)
        try:
            answer = _get(parts, max_bytes, deadline, is_allowed, own_headers)
        except TimeoutError:
            raise UserError(f"{parts.hostname} did not send the image within {seconds:g} s") from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            if time.monotonic() >= deadline:  # the guard closed the connection
                raise UserError(f"{parts.hostname} did not send the image within {seconds:g} s") from None
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"nothing can be fetched from {parts.hostname}: {reason}") from None
        if isinstance(answer, bytes):
            return answer
        url, own_headers = urljoin(url, answer), {}
    raise UserError(f"the image's address leads on more than {redirects} times; give its last one")


def _split(url: str) -> SplitResult:
    """Split an address into its parts; raises a UserError for one that should not be fetched."""
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise UserError(f"the image's address makes no sense: {error}") from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise UserError("an image's address begins with http://HOST or https://HOST")
    if parts.username is not None or parts.password is not None:
        raise UserError("an image's address may hold no user name and no password")
    if any(character <= " " or character == "\x7f" for character in url) or not url.isascii():
        raise UserError("an image's address holds printable ASCII characters alone; percent-encode the others")
    return parts


def _get(
    parts: SplitResult, max_bytes: int, deadline: float, is_allowed: IsAllowed, headers: Mapping[str, str]
) -> bytes | str:
    """Request an address; returns the bytes, or the address that it redirects to."""
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    sock = _connect(host, port, deadline, is_allowed)
    # A socket's time-out begins anew with each byte; the guard closes the connection to a server that sends slowly.
    guard = threading.Timer(_seconds_left(deadline), lambda: _shut_down(sock))
    guard.daemon = True
    guard.start()
    try:
        if parts.scheme == "https":
            context = ssl.create_default_context()
            wrapped = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            sock = wrapped
            wrapped.do_handshake()
        connection = http.client.HTTPConnection(host, port)  # for the protocol alone: the socket is ours
        connection.sock = sock
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        shown = f"[{host}]" if ":" in host else host
        named = shown if parts.port is None else f"{shown}:{parts.port}"
        basic = {"Host": named, "User-Agent": "segzero", "Accept": "image/*", "Accept-Encoding": "identity"}
        connection.request("GET", path, headers={**basic, **headers, "Connection": "close"})
        with connection.getresponse() as response:
            if response.status in MOVED and (place := response.headers.get("Location")):
                return place
            if response.status != 200:
                raise UserError(f"{host} answered {response.status}; the image is not there")
            return _read(response, host, max_bytes, deadline)
    finally:
        guard.cancel()
        sock.close()


def _read(response: http.client.HTTPResponse, host: str, max_bytes: int, deadline: float) -> bytes:
    """Read the whole body, up to `max_bytes`."""
    too_large = UserError(f"the image at {host} has more than {max_bytes} bytes")
    if (response.length or 0) > max_bytes:
        raise too_large
    data = bytearray()
    while chunk := response.read1(CHUNK):
        data += chunk
        if len(data) > max_bytes:
            raise too_large
    _seconds_left(deadline)  # raises if the guard ended it: the data may then be cut off
    return bytes(data)


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # a TLS socket's own would fail the thread that reads from it


def _connect(host: str, port: int, deadline: float, is_allowed: IsAllowed) -> socket.socket:
    """Connect to the first address of a host that answers, after a check of all of them."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, address in addresses:
        if not is_allowed(str(address[0])):
            raise UserError(f"{host} is no public address, so nothing is fetched from it")
    failure: OSError = OSError("it has no address")
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_seconds_left(deadline))
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


def _seconds_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left

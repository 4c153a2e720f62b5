"""An image that is named by its address, fetched for a client who may be hostile: nothing behind the door is reached.

The name is resolved once, every address it has must be a public one, and the connection goes to an address that was
checked: asked again, the name could have another. The same holds for each redirect. Bytes and seconds are bounded.

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
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 addresses in the clothes of IPv6
MOVED = {301, 302, 303, 307, 308}

IsAllowed = Callable[[str], bool]  # of an IP address


def is_public(address: str) -> bool:
    """True for an address that anybody on the internet could reach.

    >>> [is_public(address) for address in ("1.1.1.1", "10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254")]
    [True, False, False, False]
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def fetch(
    url: str,
    most: int = 32 << 20,
    seconds: float = 20.0,
    is_allowed: IsAllowed = is_public,
    headers: Mapping[str, str] | None = None,
    redirects: int = REDIRECTS,
) -> bytes:
    """What is there: at most `most` bytes, within `seconds`; `headers` go to the first address, not where it leads."""
    ends = time.monotonic() + seconds
    sent = dict(headers or {})
    for _ in range(redirects + 1):
        parts = _split(url)
        try:
            answer = _get(parts, most, ends, is_allowed, sent)
        except TimeoutError:
            raise UserError(f"{parts.hostname} did not send the image within {seconds:g} s") from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            if time.monotonic() >= ends:  # we hung up
                raise UserError(f"{parts.hostname} did not send the image within {seconds:g} s") from None
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"nothing can be fetched from {parts.hostname}: {said}") from None
        if isinstance(answer, bytes):
            return answer
        url, sent = urljoin(url, answer), {}
    raise UserError(f"the image's address leads on more than {redirects} times; give its last one")


def _split(url: str) -> SplitResult:
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


def _get(parts: SplitResult, most: int, ends: float, is_allowed: IsAllowed, headers: Mapping[str, str]) -> bytes | str:
    """The bytes, or where they are instead."""
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    sock = _connect(host, port, ends, is_allowed)
    # A socket's time-out begins anew with each byte; whoever sends them slowly is hung up on.
    guard = threading.Timer(_left(ends), lambda: _hang_up(sock))
    guard.daemon = True
    guard.start()
    try:
        if parts.scheme == "https":
            context = ssl.create_default_context()
            wrapped = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            sock = wrapped
            wrapped.do_handshake()
        connection = http.client.HTTPConnection(host, port)  # only speaks: the socket is ours
        connection.sock = sock
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        shown = f"[{host}]" if ":" in host else host
        named = shown if parts.port is None else f"{shown}:{parts.port}"
        sent = {"Host": named, "User-Agent": "segzero", "Accept": "image/*", "Accept-Encoding": "identity", **headers}
        connection.request("GET", path, headers=sent | {"Connection": "close"})
        with connection.getresponse() as response:
            if response.status in MOVED and (place := response.headers.get("Location")):
                return place
            if response.status != 200:
                raise UserError(f"{host} answered {response.status}; the image is not there")
            if (response.length or 0) > most:
                raise UserError(f"the image at {host} has more than {most} bytes")
            data = bytearray()
            while True:
                chunk = response.read1(CHUNK)
                if not chunk:
                    _left(ends)  # else it may be cut off
                    return bytes(data)
                data += chunk
                if len(data) > most:
                    raise UserError(f"the image at {host} has more than {most} bytes")
    finally:
        guard.cancel()
        sock.close()


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # a TLS socket's own would fail whoever reads from it


def _connect(host: str, port: int, ends: float, is_allowed: IsAllowed) -> socket.socket:
    """To the first address that answers, all of which have been checked."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, address in found:
        if not is_allowed(str(address[0])):
            raise UserError(f"{host} is no public address, so nothing is fetched from it")
    problem: OSError = OSError("it has no address")
    for family, kind, protocol, _, address in found:
        taken = socket.socket(family, kind, protocol)
        try:
            taken.settimeout(_left(ends))
            taken.connect(address)
            return taken
        except OSError as error:
            taken.close()
            problem = error
    raise problem


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left

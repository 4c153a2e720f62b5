"""Web pages of other sites, which talk to this server through the browser of somebody who can reach it.

A browser sends a page's plain POSTs anywhere, and a page whose name its owner has lead to this machine (DNS rebinding)
looks like the server's own. Programs send none of the headers that are looked at here.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from segzero.serving.problems import Problem

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

"""Requests from pages of other sites, sent through a visitor's browser, are refused; requests of programs are not."""

import httpx
import pytest

from segzero.serving.errors import ApiError
from segzero.serving.middleware import check_origin

HERE = "127.0.0.1:8000"


def code(method: str = "POST", host: str = HERE, address: str = "127.0.0.1", tokens: bool = False, **headers) -> str:
    """The code of the refusal; empty if the request is let in."""
    named = {"host": host} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {"method": method, "server": (address, 8000)}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in named.items()]
    try:
        check_origin(scope, tokens)
    except ApiError as error:
        assert error.status == 403
        return error.code
    return ""


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, False),
        ({"sec_fetch_site": "same-origin", "origin": "https://proxied.example"}, False),
        ({"sec_fetch_site": "none"}, False),
        ({"sec_fetch_site": "cross-site"}, True),
        ({"sec_fetch_site": "same-site", "origin": f"http://{HERE}"}, True),
        ({"origin": f"http://{HERE}"}, False),
        ({"origin": "http://127.0.0.1:9000"}, True),
        ({"origin": "http://evil.example"}, True),
        ({"origin": "null"}, True),
    ],
)
def test_a_foreign_page_can_read_but_not_send(headers, refused):
    for tokens in (False, True):
        assert code(tokens=tokens, **headers) == ("foreign_page" if refused else "")
        assert code("DELETE", tokens=tokens, **headers) == ("foreign_page" if refused else "")
        assert code("GET", tokens=tokens, **headers) == ""


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example"]
)
def test_a_public_name_that_resolves_to_this_machine_is_refused(host):
    for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert code("GET", host, address) == "foreign_name"
    assert code("GET", host, tokens=True) == ""  # the page knows no token
    assert code("GET", host, "192.168.1.2") == ""  # the server is open to the network


@pytest.mark.parametrize(
    "host", [HERE, "localhost:8000", "localhost", "[::1]:8000", "app.localhost:8000", "desk:80", ""]
)
def test_names_of_this_machine_are_accepted(host):
    assert code("GET", host) == ""


@pytest.mark.slow
def test_a_foreign_page_begins_no_dialogue(server, held_out):
    files = {"image": held_out[0].image}
    foreign = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    refused = httpx.post(server.url + "/v1/dialogues", files=files, headers=foreign)
    assert refused.status_code == 403 and refused.json()["error"]["code"] == "foreign_page"
    assert httpx.get(server.url + "/v1/models", headers={"Host": "evil.example"}).status_code == 403
    assert httpx.post(server.url + "/v1/dialogues", files=files).status_code == 201

"""Fetching of images by address, from a real server on this machine; only the check of its address is replaced."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from segzero.errors import UserError
from segzero.serving.image_fetch import fetch, is_public
from segzero.serving.limits import Limits
from segzero.serving.options import ServerOptions
from tests.helpers import servers
from tests.helpers.servers import wait_until

HERE = {"127.0.0.1"}
IMAGES = {"/image": b"image"}
seen: list[tuple[str, dict[str, str]]] = []  # requests, with their headers
completed: list[str] = []  # slow responses that were sent to their end


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        seen.append((self.path, dict(self.headers)))
        name, _, rest = self.path.partition("?")
        if name == "/to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif name in IMAGES:
            self.send_response(200)
            self.send_header("Content-Length", str(len(IMAGES[name])))
            self.end_headers()
            self.wfile.write(IMAGES[name])
        elif name in ("/endless", "/slow"):
            self.send_response(200)
            self.end_headers()
            for _ in range(2000):
                self.wfile.write(b"x" * (1 << 16 if name == "/endless" else 1))
                time.sleep(0 if name == "/endless" else 0.05)
            completed.append(name)
        elif name == "/slow-head":
            for letter in b"HTTP/1.0 200 OK\r\nX-Name: " + b"x" * 1000:
                self.wfile.write(bytes([letter]))
                time.sleep(0.02)
            completed.append(name)
        elif name == "/huge-length":
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 40))
            self.end_headers()
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def get(url):
    return lambda path, **options: fetch(url + path, is_allowed=HERE.__contains__, **options)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd12::1",
        "ff02::1",
        "ff0e::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "2002:a00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2001:db8::1",
        "100::1",
        "fec0::1",
        "localhost",
        "1.1.1",
    ],
)
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_addresses_that_are_public(address):
    assert is_public(address)


def test_nothing_on_this_machine_is_reached(url):
    seen.clear()
    port = url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "0", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "127.1"):
        with pytest.raises(UserError, match=r"no public address|nothing can be fetched"):
            fetch(f"http://{host}:{port}/image")
    assert seen == []


def test_an_allowed_image_comes(get):
    assert get("/image") == b"image"
    assert seen[-1][1]["Accept-Encoding"] == "identity"


def test_all_addresses_of_a_name_are_checked_and_the_checked_one_is_asked(url, monkeypatch):
    """The name is public at first and private when asked again: it is not asked again."""
    port = int(url.rpartition(":")[2])
    answers = [["127.0.0.1"], ["127.0.0.1", "10.0.0.1"]]
    asked = []

    def resolve(host, port, **_):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers[len(asked) - 1]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert fetch(f"http://cats.example:{port}/image", is_allowed=HERE.__contains__) == b"image"
    assert asked == ["cats.example"] and seen[-1][1]["Host"] == f"cats.example:{port}"
    with pytest.raises(UserError, match=r"cats\.example is no public address"):
        fetch(f"http://cats.example:{port}/image", is_allowed=HERE.__contains__)


def test_redirects_are_followed_a_little_and_checked(get, url):
    assert get("/to?/to?/to?/image", headers={"Authorization": "Token secret"}) == b"image"
    assert [("Authorization" in headers) for _, headers in seen[-4:]] == [True, False, False, False]
    with pytest.raises(UserError, match="more than 3 times"):
        get("/to?/to?/to?/to?/image")
    with pytest.raises(UserError, match="leads on more than 0 times"):
        get("/to?/image", redirects=0)
    port = url.rpartition(":")[2]
    for place in (f"http://127.0.0.2:{port}/image", f"http://[::1]:{port}/image", "http://169.254.169.254/latest"):
        with pytest.raises(UserError, match="no public address"):
            get(f"/to?{place}")
    for place in ("file:///etc/passwd", "ftp://127.0.0.1/a", "//user@127.0.0.1/image"):
        with pytest.raises(UserError, match=r"begins with http|no user name"):
            get(f"/to?{place}")


def test_bytes_and_seconds_are_bounded(get):
    for path in ("/endless", "/huge-length"):
        with pytest.raises(UserError, match="more than 1000000 bytes"):
            get(path, max_bytes=1_000_000)
    completed.clear()
    for path in ("/slow", "/slow-head"):
        with pytest.raises(UserError, match=r"within 0\.3 s"):
            get(path, seconds=0.3)
    assert completed == []  # they would have taken 100 s and 20 s


@contextmanager
def silent():
    """A port that accepts connections and sends nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_a_server_that_sends_nothing_is_not_waited_for():
    with silent() as port:
        for scheme in ("http", "https"):
            with pytest.raises(UserError, match="did not send"):
                fetch(f"{scheme}://127.0.0.1:{port}/", seconds=0.3, is_allowed=HERE.__contains__)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://example.com/a.png", "begins with http"),
        ("http:///a.png", "begins with http"),
        ("http://user:word@example.com/a.png", "no user name"),
        ("http://example.com:99999/a.png", "makes no sense"),
        ("http://[::1/a.png", "makes no sense"),
        ("http://example.com/a b.png", "printable ASCII"),
        ("http://example.com/\r\nHost: b", "printable ASCII"),
        ("http://exämple.com/", "printable ASCII"),
        ("http://no.such.host.invalid/a.png", "nothing can be fetched"),
        ("http://" + "a" * 300 + ".com/", "nothing can be fetched"),
    ],
)
def test_addresses_that_make_no_sense(address, message):
    with pytest.raises(UserError, match=message) as refused:
        fetch(address, seconds=2, is_allowed=HERE.__contains__)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_server_fetches_only_if_it_has_the_option(server, pipeline, held_out, url, monkeypatch):
    sample = held_out[0]
    monkeypatch.setitem(IMAGES, "/scene.png", sample.image)
    body = {"image": f"{url}/scene.png", "question": sample.question}
    with server.http() as http:
        refused = http.post("/v1/segment", json=body)
        assert refused.status_code == 422 and "fetches nothing" in refused.json()["error"]["message"]
    with servers.running(pipeline, options=ServerOptions(fetch=fetch)) as public, public.http() as http:
        seen.clear()
        refused = http.post("/v1/segment", json=body)
        assert refused.status_code == 422 and "no public address" in refused.json()["error"]["message"] and not seen
    allowed = partial(fetch, is_allowed=HERE.__contains__)
    with servers.running(pipeline, options=ServerOptions(fetch=allowed)) as running, running.http() as http:
        answer = http.post("/v1/segment", json=body)
        assert answer.status_code == 200, answer.text
        [expected] = pipeline([sample.image], [sample.question])
        assert answer.json()["raw_text"] == expected.raw_text
        assert http.post("/v1/dialogues", json={"image": f"{url}/scene.png"}).status_code == 201
        assert http.post("/v1/segment", json=body | {"image": f"{url}/image"}).status_code == 422


@pytest.mark.slow
def test_slow_addresses_do_not_delay_other_requests(pipeline, held_out, url):
    slow_fetch = partial(fetch, is_allowed=HERE.__contains__, seconds=6)
    fields = {"files": {"image": held_out[0].image}, "data": {"question": "the shape"}}
    with (
        servers.running(pipeline, Limits(max_concurrent=40), options=ServerOptions(fetch=slow_fetch)) as server,
        server.http() as http,
        ThreadPoolExecutor(39) as clients,
    ):
        body = {"image": f"{url}/slow", "question": "the shape"}
        slow = [clients.submit(http.post, "/v1/segment", json=body) for _ in range(39)]
        wait_until(lambda: "segzero_requests_inside 39.0" in http.get("/metrics").text)
        assert http.post("/v1/segment", **fields).status_code == 200
        assert not any(each.done() for each in slow)
        assert {each.result().status_code for each in slow} == {422}


def test_a_missing_image_is_an_error(get):
    with pytest.raises(UserError, match="answered 404"):
        get("/none")

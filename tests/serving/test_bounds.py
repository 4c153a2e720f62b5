"""Bounds of what one client can use of a server: time, memory, connections and dialogues."""

import io
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from PIL import Image

from segzero.serving import server as server_module
from segzero.serving import threads
from segzero.serving.client import Client
from segzero.serving.errors import ApiError
from segzero.serving.limits import Limits, Tokens
from segzero.serving.sessions import MOST_SHARES, SessionStore
from tests.helpers import servers
from tests.helpers.servers import wait_until


@contextmanager
def occupied(kind: threads.Threads):
    """Occupy all threads of a kind for a minute; yields a function that tells whether they still are."""
    release, begun = threading.Event(), threading.Semaphore(0)
    blocked = [kind._pool.submit(lambda: (begun.release(), release.wait(60))) for _ in range(kind.count)]
    try:
        assert all(begun.acquire(timeout=10) for _ in blocked)
        yield lambda: not any(future.done() for future in blocked)
    finally:
        release.set()


def connect(server: servers.RunningServer) -> socket.socket:
    return socket.create_connection(server.address, timeout=20)


def is_closed(connection: socket.socket, seconds: float = 10) -> bool:
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[" + b"[]," * 1_000_000 + b"[]]", "values"),
        (b'{"image": "' + b"," * 600_000 + b'"}', "values"),
        (b"[" * 10_000_000, "JSON"),
        (b'{"a":' * 1_000_000, "JSON"),
    ],
    ids=["brackets", "commas", "deep", "deep objects"],
)
def test_a_body_of_too_many_values_is_refused_at_once(server, body, message):
    with server.http() as http:
        begin = time.process_time()  # of server and client, which are one process
        answer = http.post("/v1/segment", content=body, headers={"Content-Type": "application/json"})
        seconds = time.process_time() - begin
    assert answer.status_code in (400, 422) and message in answer.json()["error"]["message"]
    assert seconds < 1


START = b"GET /healthz HTTP/1.1\r\nHost: here\r\n"
IN_CHUNKS = b"POST /healthz HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (START + b"X: ", b"x" * 65536),
        (START, b"X: y\r\n" * 8192),
        (b"GET /", b"x" * 65536),
        (IN_CHUNKS, b"X: y\r\n" * 8192),
        (IN_CHUNKS + b"X: ", b"x" * 65536),
        (IN_CHUNKS[:-3] + b"1;", b"x" * 65536),
        (b"", (START + b"\r\n") * 2000),
    ],
    ids=["a header", "headers", "an address", "headers behind a body", "one behind a body", "a chunk", "requests"],
)
def test_a_head_without_end_is_cut_off(server, start, more):
    with connect(server) as connection:
        connection.sendall(start)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(1000):  # 64 MB in all
                connection.sendall(more)
                time.sleep(0.001)


def test_heads_within_the_bounds_and_some_requests_ahead_are_answered(server):
    with connect(server) as connection:
        connection.sendall((START + b"X: " + b"x" * 60_000 + b"\r\n\r\n") * 2 + (START + b"\r\n") * 5)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 7:
            answers += connection.recv(1 << 16)
    with connect(server) as connection:
        connection.sendall(IN_CHUNKS + b"X: y\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 405")


@pytest.mark.slow
def test_large_images_wait_for_each_other_and_delay_no_other_request(pipeline, held_out):
    question = {"question": held_out[0].question}
    with servers.running(pipeline, Limits(seconds=2)) as server, server.http() as http:
        with occupied(threads.decoding) as still_occupied, ThreadPoolExecutor(4) as clients:
            large = [
                clients.submit(http.post, "/v1/segment", files={"image": png(3000, 1500)}, data=question)
                for _ in range(4)
            ]
            assert http.post("/v1/segment", files={"image": held_out[0].image}, data=question).status_code == 200
            assert still_occupied(), "a small image waited for the large ones"
            assert {each.result().status_code for each in large} == {504}
            assert still_occupied(), "504 came late"
        assert server.server.config.app.state.server.large_images._value == threads.decoding.count, "a place was lost"
        assert http.post("/v1/segment", files={"image": png(3000, 1500)}, data=question).status_code == 200


@pytest.mark.parametrize("kind", ["reading", "writing"])
def test_504_comes_in_time_whatever_is_busy(pipeline, held_out, kind):
    with servers.running(pipeline, Limits(seconds=2)) as server, server.http() as http:
        ask = {"files": {"image": held_out[0].image}, "data": {"question": held_out[0].question}}
        with occupied(getattr(threads, kind)) as still_occupied:
            answer = http.post("/v1/segment", **ask)
            assert answer.status_code == 504 and answer.json()["error"]["code"] == "timed_out"
            assert still_occupied()
        wait_until(lambda: http.post("/v1/segment", **ask).status_code == 200, 60)


@pytest.mark.slow
def test_a_response_that_is_not_read_counts_and_is_cut_off(pipeline):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), dtype=np.uint8))
    with servers.running(pipeline, Limits(seconds=1.5, max_concurrent=1)) as server, server.http() as http:
        path = Client(server.url).dialogue(noise).path
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
            connection.sendall(f"GET {path}/export?format=overlay HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            wait_until(lambda: http.get(path).status_code == 429)
            wait_until(lambda: http.get(path).status_code == 200)  # seconds for the answer, and again to take it


def test_silent_connections_are_closed_and_busy_ones_are_not(pipeline, monkeypatch):
    monkeypatch.setattr(server_module, "HEAD", 0.5)
    with servers.running(pipeline) as server, server.http() as busy:
        silent, slow = connect(server), connect(server)
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: he")
        for _ in range(20):
            assert busy.get("/healthz").status_code == 200
            time.sleep(0.05)
        [connection] = busy._transport._pool.connections
        assert connection._connection._request_count == 20, "it had to be opened again"
        assert is_closed(silent) and is_closed(slow)


@pytest.mark.slow
def test_the_oldest_of_too_many_silent_connections_make_room(pipeline, monkeypatch):
    monkeypatch.setattr(server_module, "SILENT", 5)
    with servers.running(pipeline) as server, server.http() as http:
        silent = []
        for _ in range(8):
            silent.append(connect(server))
            time.sleep(0.12)  # so that the server sees them one after the other
        assert http.get("/healthz").status_code == 200
        wait_until(lambda: is_closed(silent[2], 0.1))
        assert is_closed(silent[0]) and is_closed(silent[1]) and not is_closed(silent[7], 0.3)


@pytest.mark.slow
def test_a_server_that_may_open_few_files_stays_open_to_others(start_server):
    url = start_server(files=256).url
    host, port = url.removeprefix("http://").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(300)]
    for _ in range(3):
        begin = time.monotonic()
        assert httpx.get(url + "/healthz", timeout=20).status_code == 200
        assert time.monotonic() - begin < server_module.HEAD  # after which silent connections are closed anyway
    for connection in silent:
        connection.close()


class FakeRegistry:
    size = (10, 10)


class FakeDialogue:
    registry = FakeRegistry()


def test_an_owner_has_a_share_of_the_dialogues():
    store = SessionStore(Limits(dialogues=8), owners=9)
    assert store.share == 8 // MOST_SHARES == 2
    mine = [store.add(FakeDialogue(), b"", "mine", None) for _ in range(2)]
    with pytest.raises(ApiError, match="2 dialogues open, which is your share") as refused:
        store.make_room("mine")
    assert refused.value.status == 429 and int(refused.value.headers["Retry-After"]) > 1000
    yours = [store.add(FakeDialogue(), b"", "yours", None) for _ in range(2)]
    yours[0].is_left = True
    with pytest.raises(ApiError):
        store.make_room("mine")  # another's that was left makes no room in my share
    mine[0].is_left = True
    store.add(FakeDialogue(), b"", "mine", None)
    assert set(store._sessions) > {mine[1].id, yours[0].id}


def test_with_one_token_or_none_there_are_no_shares():
    assert SessionStore(Limits(dialogues=8)).share == SessionStore(Limits(dialogues=8), owners=0).share == 8
    assert SessionStore(Limits(dialogues=2), owners=9).share == 1


def test_the_images_of_dialogues_have_a_bound_of_their_own():
    store = SessionStore(Limits(dialogue_bytes=1000))
    first, second = (store.add(FakeDialogue(), b"x" * 100, "", None) for _ in range(2))  # 400 bytes each
    with pytest.raises(ApiError, match="2 dialogues are open"):
        store.add(FakeDialogue(), b"x" * 100, "", None)
    assert len(store) == 2
    second.is_left = True
    store.add(FakeDialogue(), b"x" * 100, "", None)
    assert set(store._sessions) > {first.id} and second.id not in store._sessions
    assert len(SessionStore(Limits(dialogue_bytes=1)).make_room("", 1000)) == 0  # a single one always fits


def test_tokens_bound_the_share_of_a_server(pipeline, held_out):
    tokens = Tokens(["one", "two", "three", "four", "five"])
    with servers.running(pipeline, Limits(dialogues=4), tokens) as server:
        mine = Client(server.url, "one", retries=0)
        mine.dialogue(held_out[0].image)
        with server.http("one") as http:
            assert http.post("/v1/dialogues", files={"image": held_out[0].image}).status_code == 429
        Client(server.url, "two", retries=0).dialogue(held_out[0].image)


def test_small_answers_are_sent_at_once(server):
    with server.http() as http:
        assert http.get("/healthz").status_code == 200
        sockets = [each.transport.get_extra_info("socket") for each in server.server.server_state.connections]
        assert sockets and all(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in sockets)

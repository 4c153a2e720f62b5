"""Clients that leave, flood or are slow, and models that fail: other clients get their answers, and nothing hangs."""

import asyncio
import json
import os
import select
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from segzero.masks import mask_iou
from segzero.serving import server as server_module
from segzero.serving import threads
from segzero.serving.app import create_app
from segzero.serving.batching import BatchKey
from segzero.serving.client import Client
from segzero.serving.limits import Limits
from tests.helpers import servers
from tests.helpers.servers import wait_until


@pytest.fixture
def ask(held_out):
    """The fields of a question about a held-out scene, for `httpx.post`."""
    return {"files": {"image": held_out[0].image}, "data": {"question": held_out[0].question}}


@pytest.fixture(scope="module")
def small(pipeline):
    """A server with room for eight requests."""
    with servers.running(pipeline, Limits(max_concurrent=8)) as running:
        yield running


@pytest.fixture(scope="module")
def one_second(pipeline):
    """A server whose requests may take one second."""
    with servers.running(pipeline, Limits(seconds=1.0)) as running:
        yield running


def raw_request(server: servers.RunningServer, body: bytes, *headers: str) -> socket.socket:
    """A connection on which part of a request was sent."""
    connection = socket.create_connection(server.address, timeout=20)
    head = ["POST /v1/segment HTTP/1.1", "Host: here", *headers]
    connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
    return connection


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def test_a_client_that_leaves_is_dropped_from_the_queue(small, ask):
    batcher, segmenter = small.pool.batcher, small.pool.cached_segmenters[0]
    request = httpx.Request("POST", small.url, **ask)
    body = request.read()
    head = [f"Content-Length: {len(body)}", f"Content-Type: {request.headers['content-type']}"]
    with small.http() as http, ThreadPoolExecutor(1) as other:
        with small.models_blocked():
            seen = segmenter.encoded + segmenter.cache_hits
            connections = [raw_request(small, body, *head) for _ in range(4)]
            wait_until(lambda: len(batcher) == 4)
            for connection in connections:
                connection.close()
            wait_until(lambda: inside(small) == 0)
            stays = other.submit(http.post, "/v1/segment", **ask)
            wait_until(lambda: len(batcher) == 5)
        assert stays.result(10).status_code == 200
    assert segmenter.encoded + segmenter.cache_hits == seen + 1 and len(batcher) == 0


def inside(server: servers.RunningServer) -> float:
    with server.http() as http:
        [line] = [x for x in http.get("/metrics").text.splitlines() if x.startswith("segzero_requests_inside ")]
    return float(line.split()[1])


def test_a_request_that_takes_too_long_gets_504(one_second, ask):
    with one_second.models_blocked(), one_second.http() as http:
        begin = time.monotonic()
        response = http.post("/v1/segment", **ask)
        assert response.status_code == 504 and response.json()["error"]["code"] == "timed_out"
        assert time.monotonic() - begin > 0.9
        assert one_second.pool.busy()  # it did not wait for the models, which are blocked for 30 s
    with one_second.http() as http:  # on a busy machine an answer can take a second, too
        wait_until(lambda: http.post("/v1/segment", **ask).status_code == 200)


def test_a_body_that_does_not_arrive_is_not_waited_for(one_second):
    with raw_request(one_second, b'{"image', "Content-Type: application/json", "Content-Length: 1000") as connection:
        assert read_all(connection).startswith(b"HTTP/1.1 408")
    assert inside(one_second) == 0


@pytest.mark.parametrize("length", ["Content-Length: 52428800", "Transfer-Encoding: chunked"])
def test_fifty_megabytes_are_refused_and_the_client_gets_the_response(server, length):
    body = b" " * (50 << 20)
    if length.startswith("Transfer"):
        body = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    with raw_request(server, body, "Content-Type: application/json", length) as connection:
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413") and b'"too_large"' in answer


def test_too_many_requests_are_refused_and_the_others_answered(small, ask):
    with small.http() as http, ThreadPoolExecutor(40) as clients:
        with small.models_blocked():
            asked = [clients.submit(http.post, "/v1/segment", **ask) for _ in range(40)]
            wait_until(lambda: sum(future.done() for future in asked) >= 32)
            refused = [future.result() for future in asked if future.done()]
            assert all(response.status_code == 429 for response in refused)
            assert all(int(response.headers["Retry-After"]) >= 1 for response in refused)
            assert http.get("/healthz").status_code == http.get("/readyz").status_code == 200
            assert 'segzero_requests_total{path="/v1/segment",status="429"} 32.0' in http.get("/metrics").text
        served = [future.result() for future in asked if future.result() not in refused]
        assert len(served) == 8 and {response.status_code for response in served} == {200}


def test_the_client_tries_again_until_there_is_room(pipeline, held_out):
    results = pipeline([s.image for s in held_out[:3]], [s.question for s in held_out[:3]])
    with servers.running(pipeline, Limits(max_concurrent=2)) as server, ThreadPoolExecutor(6) as clients:
        client = Client(server.url, retries=30)
        asked = [clients.submit(client.segment, held_out[n].image, held_out[n].question) for n in (0, 1, 2) * 2]
        for n, future in zip((0, 1, 2) * 2, asked, strict=True):
            assert mask_iou(future.result(30).union, results[n].union) > 0.99


def leave_the_thread(items):
    raise SystemExit


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_failed_models_give_503_and_the_server_ends(pipeline, ask):
    with servers.running(pipeline) as server, server.http() as http, ThreadPoolExecutor(5) as clients:
        with server.models_blocked():
            server.pool.batcher.submit(BatchKey("leave", "test"), leave_the_thread, None)
            asked = [clients.submit(http.post, "/v1/segment", **ask) for _ in range(5)]
            wait_until(lambda: len(server.pool.batcher) == 6)
        for future in asked:
            assert future.result(10).status_code == 503 and "Retry-After" in future.result().headers
        server.thread.join(10)
        assert not server.thread.is_alive()


def test_failed_models_are_not_ready(pipeline, ask):
    app = create_app(pipeline)
    app.state.server.pool.batcher.fail("killed")

    async def statuses() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
            asked = [http.get("/healthz"), http.get("/readyz"), http.post("/v1/segment", **ask)]
            return [(await each).status_code for each in asked]

    assert asyncio.run(statuses()) == [200, 503, 503]


def test_a_batch_that_never_ends_fails_the_models(pipeline, ask):
    with servers.running(pipeline, Limits(seconds=0.2)) as server, server.models_blocked():
        with server.http() as http:
            assert http.post("/v1/segment", **ask).status_code == 504
        server.thread.join(10)  # five times the time of a request
        assert not server.thread.is_alive() and "not ended" in server.pool.failure


@pytest.mark.slow
def test_exports_that_take_too_long_get_504_and_do_not_delay_others(one_second, ask):
    go = threading.Event()
    dialogue = Client(one_second.url).dialogue(ask["files"]["image"])
    busy = [threads.exporting._pool.submit(go.wait, 20) for _ in range(2)]
    try:
        with one_second.http() as http, ThreadPoolExecutor(12) as clients:
            asked = [clients.submit(http.get, f"{dialogue.path}/export") for _ in range(12)]
            assert http.post("/v1/segment", **ask).status_code == 200
            assert {each.result().status_code for each in asked} == {504}
    finally:
        go.set()
    assert all(each.result() for each in busy) and dialogue.export()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
def test_a_client_that_reads_nothing_of_its_response_is_disconnected(pipeline, monkeypatch):
    monkeypatch.setattr(server_module, "UNREAD", 500)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), dtype=np.uint8))
    with servers.running(pipeline) as server:
        path = Client(server.url).dialogue(noise).path
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(20)
            connection.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
            connection.sendall(f"GET {path}/export?format=overlay HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            wait_until(lambda: select.select([connection], [], [], 0)[0])
            time.sleep(4)
            with pytest.raises(ConnectionResetError):
                read_all(connection)


@pytest.mark.slow
def test_sigterm_under_load_finishes_the_requests_inside(start_server, ask):
    running = start_server()
    with httpx.Client(base_url=running.url, timeout=60) as http, ThreadPoolExecutor(16) as clients:
        asked = [clients.submit(http.post, "/v1/segment", **ask) for _ in range(48)]
        wait_until(lambda: sum(future.done() for future in asked) >= 4, 30)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 0
    outcomes = [future.exception() or future.result().status_code for future in asked]
    refused = [outcome for outcome in outcomes if outcome != 200]
    assert refused and all(isinstance(outcome, httpx.NetworkError | httpx.RemoteProtocolError) for outcome in refused)
    lines = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
    accepted = [line["status"] for line in lines if line["event"] == "request" and line["path"] == "/v1/segment"]
    assert accepted == [200] * outcomes.count(200), "an answer was lost on its way"


@pytest.mark.slow
def test_a_killed_segmenter_ends_the_server(start_server, ask, tmp_path):
    from tests.helpers import meta_weights

    running = start_server("--segmenter", str(meta_weights.make_meta(tmp_path)))
    fields = {"files": ask["files"], "data": {"prompts": '[{"points": [[30, 40]]}]'}}
    assert httpx.post(running.url + "/v1/prompt", timeout=60, **fields).status_code == 200
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    [worker] = [pid for pid in children if b"sam2_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(worker), signal.SIGKILL)
    assert httpx.post(running.url + "/v1/prompt", timeout=60, **fields).status_code == 503
    assert running.process.wait(30) == 2
    assert "the models are gone" in running.log.read_text().splitlines()[-1]


@pytest.mark.slow
def test_a_thousand_requests_at_once(server, held_out, pipeline):
    results = pipeline([s.image for s in held_out], [s.question for s in held_out])
    client = Client(server.url, retries=200)

    def outcome(n: int) -> bool:
        sample, expected = held_out[n % len(held_out)], results[n % len(held_out)]
        answer = client.segment(sample.image, sample.question)
        return answer.raw_text == expected.raw_text and mask_iou(answer.union, expected.union) > 0.99

    with ThreadPoolExecutor(250) as clients:
        assert all(clients.map(outcome, range(1000)))

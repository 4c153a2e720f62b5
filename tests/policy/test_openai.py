"""The openai backend: its error paths against a small server in this process, its words against a real `vllm serve`."""

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from segzero.errors import TimedOut, UserError
from segzero.frames import native, relative, stretch
from segzero.policy import Request, Sampling, load_policy
from segzero.policy.chat_server import split_address
from segzero.prompts import render_messages

MODELS = {"data": [{"id": "Qwen/Qwen2.5-VL-3B-Instruct", "owned_by": "someone"}]}


def reply(text: str, finish: str = "stop") -> dict:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"completion_tokens": len(text)}}


class Server:
    """Speaks the protocol from a script: a status and a body for each question, the last one over and over."""

    def __init__(self) -> None:
        self.models: dict | str = MODELS
        self.models_status = 200
        self.places: dict[int, str] = {}  # where a status leads to
        self.script: list[tuple[int, object]] = [(200, reply("<answer>[]</answer>"))]
        self.delay = 0.0
        self.seen: list[dict] = []
        self.keys: list[str | None] = []
        self.busy = self.most_busy = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.keys.append(self.headers["Authorization"])
                self.answer(
                    *((server.models_status, server.models) if self.path == "/v1/models" else (404, "not here"))
                )

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.seen.append(body)
                    status, content = server.script.pop(0) if len(server.script) > 1 else server.script[0]
                    server.busy += 1
                    server.most_busy = max(server.busy, server.most_busy)
                time.sleep(server.delay)
                with lock:
                    server.busy -= 1
                self.answer(status, content(body) if callable(content) else content)

            def answer(self, status: int, content: object) -> None:
                data = (content if isinstance(content, str) else json.dumps(content)).encode()
                self.send_response(status)
                if status in server.places:
                    self.send_header("Location", server.places[status])
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # a client that gave up waiting is part of the tests
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def connect(server):
    return lambda **options: load_policy(server.url, **{"frame": "stretch(840)", **options})


def test_the_request_holds_the_picture_and_plain_decoding(server, connect, ask):
    policy = connect(prompt="vision_reasoner")
    request = ask(policy, size=(64, 48))
    [answer] = policy.generate([request], Sampling(0.5, max_tokens=77, seed=1))
    assert (answer.text, answer.tokens, answer.truncated) == ("<answer>[]</answer>", 19, False)
    [body] = server.seen
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("Qwen/Qwen2.5-VL-3B-Instruct", 0.5, 77)
    assert "repetition_penalty" not in body  # only vLLM knows it
    system, user = body["messages"]
    assert system == request.messages[0] and user["content"][1] == request.messages[1]["content"][1]
    kind, _, data = user["content"][0]["image_url"]["url"].partition(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/png;base64" and picture.size == (840, 840)
    assert picture.tobytes() == request.image.tobytes()


def test_two_images_travel_in_their_order(server, connect, ask):
    policy = connect()
    pictures = [policy.frame.fit(Image.new("RGB", (64, 48), colour)) for colour in ("red", "blue")]
    messages = render_messages("the mug", policy.prompt, images=2)
    policy.generate([Request(pictures[0], messages, extra_images=(pictures[1],))])
    first, second, text = server.seen[0]["messages"][1]["content"]
    urls = [part["image_url"]["url"].partition(",")[2] for part in (first, second)]
    sent = [Image.open(io.BytesIO(base64.b64decode(url))) for url in urls]
    assert [picture.getpixel((0, 0)) for picture in sent] == [(255, 0, 0), (0, 0, 255)] and text["type"] == "text"


def test_vllm_is_told_to_leave_the_generation_config_out(server, connect, ask):
    server.models = {"data": [{"id": "m", "owned_by": "vllm", "root": "m"}]}
    policy = connect()
    policy.generate([ask(policy)])
    assert server.seen[0]["repetition_penalty"] == 1.0 and server.seen[0]["top_k"] == 0


def test_replies_keep_the_order_and_concurrency_is_bounded(server, connect, ask):
    server.delay = 0.05
    server.script = [(200, lambda body: reply(body["messages"][1]["content"][1]["text"][13:14]))]
    policy = connect(concurrency=3)
    replies = policy.generate([ask(policy, letter) for letter in "abcdefghijkl"])
    assert "".join(r.text for r in replies) == "abcdefghijkl"
    assert 2 <= server.most_busy <= 3
    assert len({body["seed"] for body in server.seen}) == 12
    server.seen.clear()
    policy.generate([replace(ask(policy), seed=5) for _ in range(2)])
    assert [body["seed"] for body in server.seen] == [5, 5]
    assert policy.generate([]) == []


def test_an_answer_that_was_cut_says_so(server, connect, ask):
    server.script = [(200, reply("<think>", "length"))]
    policy = connect()
    assert policy.generate([ask(policy)])[0].truncated


@pytest.mark.parametrize(
    ("listed", "presence"),
    [
        ([{"token": "<answer>", "logprob": 0.0}, {"token": "[]", "logprob": -0.6931472}], 0.5),
        (None, None),
        ("no list", None),
        ([{"token": 5, "logprob": 0.0}], None),
        ([{"token": "<answer>{", "logprob": "much"}], None),
    ],
)
def test_the_presence_is_that_of_the_tokens_that_the_server_lists(server, connect, listed, presence):
    answer = reply("<answer>[]</answer>")
    answer["choices"][0]["logprobs"] = {"content": listed}
    server.script = [(200, answer)]
    policy = connect()
    picture = policy.frame.fit(Image.new("RGB", (64, 48)))
    [told] = policy.generate([Request(picture, render_messages("a mug"), wants_presence=True)])
    assert told.presence == (None if presence is None else pytest.approx(presence))
    assert server.seen[-1]["logprobs"] is True
    [plain] = policy.generate([Request(picture, render_messages("a mug"))])
    assert plain.presence is None and "logprobs" not in server.seen[-1]


def test_a_busy_server_is_asked_again(server, connect, ask):
    server.script = [(503, "starting"), (429, {"error": {"message": "slow down"}}), (200, reply("ok"))]
    policy = connect()
    assert policy.generate([ask(policy)])[0].text == "ok"
    assert len(server.seen) == 3


def test_a_server_that_stays_broken_is_one_line(server, connect, ask):
    server.script = [(500, {"error": {"message": "engine died"}})]
    policy = connect(retries=1)
    with pytest.raises(UserError, match=r"answered 500: engine died \(2 tries\)"):
        policy.generate([ask(policy)] * 3)


def test_a_slow_server_runs_into_the_time_out(server, connect, ask):
    policy = connect(timeout=0.2, retries=1)
    server.delay = 1.0
    with pytest.raises(UserError, match=r"did not answer within 0.2 s \(2 tries\)"):
        policy.generate([ask(policy)])


def test_a_refused_request_is_not_repeated(server, connect, ask):
    server.script = [(400, {"error": {"message": "The decoder prompt is longer\nthan the maximum model length"}})]
    policy = connect(concurrency=1)
    with pytest.raises(UserError, match="400: The decoder prompt is longer than the maximum model length"):
        policy.generate([ask(policy)] * 5)
    assert len(server.seen) <= 2  # what was still queued was not sent


@pytest.mark.parametrize("content", [{"choices": []}, {"detail": "odd"}, [1]])
def test_an_answer_of_another_shape_is_one_line(server, connect, ask, content):
    server.script = [(200, content)]
    policy = connect()
    with pytest.raises(UserError, match="without choices or usage"):
        policy.generate([ask(policy)])


DEEP = "[" * 100_000


def content(value: object) -> dict:
    return {"choices": [{"message": {"content": value}, "finish_reason": "stop"}], "usage": {"completion_tokens": 3}}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (content([{"type": "text", "text": "the mug"}]), "without choices or usage"),
        (content(7), "without choices or usage"),
        ({**content("ok"), "usage": {"completion_tokens": "3"}}, "without choices or usage"),
        (DEEP, "does not answer in JSON"),
        ('{"choices": ' + "[" * 500 + "]" * 500 + "}", "without choices or usage"),
        (" " * ((32 << 20) + 1), "sends more than 32 MiB, which is not a policy's answer"),
    ],
)
def test_an_answer_of_other_types_depths_or_lengths_is_one_line(server, connect, ask, answer, problem):
    server.script = [(200, answer)]
    policy = connect()
    with pytest.raises(UserError, match=problem) as caught:
        policy.generate([ask(policy)])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_no_text_is_an_empty_answer(server, connect, ask):
    server.script = [(200, content(None))]
    policy = connect()
    assert policy.generate([ask(policy)])[0].text == ""


@pytest.mark.parametrize("models", [{"data": [{"id": 1}, {"id": "a"}]}, {"data": [{"id": ["a"]}]}, DEEP])
def test_models_of_other_types_are_one_line(server, models):
    server.models = models
    with pytest.raises(UserError, match="an OpenAI-compatible address ends in /v1"):
        load_policy(server.url, frame="native")


def test_a_root_longer_than_a_path_can_be_is_no_folder(server):
    server.models = {"data": [{"id": "VisionReasoner-7B", "root": "x" * 100_000}]}
    with pytest.raises(UserError, match="pass frame="):
        load_policy(server.url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_goes_nowhere_else(server, connect, ask, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", "abc")
    policy = connect()
    other = Server()
    threading.Thread(target=other.http.serve_forever, args=(0.05,), daemon=True).start()
    try:
        server.places[status] = f"{other.url}/models"
        server.script = [(status, "")]
        with pytest.raises(UserError, match=rf"leads to {other.url}/models \({status}\), where no key is sent"):
            policy.generate([ask(policy)])
        server.models_status = status
        with pytest.raises(UserError, match="where no key is sent"):
            connect()
    finally:
        other.http.shutdown()
        other.http.server_close()
    assert other.keys == [] and other.seen == []


DRIPPING = {
    "status": (b"HTTP/1.0 200 OK", b"K"),
    "headers": (b"HTTP/1.0 200 OK\r\nX: ", b"x"),
    "body": (b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n", b" "),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "error": (b"HTTP/1.0 400 No\r\nContent-Length: 1000\r\n\r\n", b" "),
    "events": (b"HTTP/1.0 200 OK\r\n\r\ndata: ", b"x"),
    "pings": (b"HTTP/1.0 200 OK\r\n\r\n", b": ping\n"),
}


@contextlib.contextmanager
def dripping(begins: bytes, drop: bytes, pause: float):
    """A server that sends a little of its answer now and then, for ever; its address."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listening.accept()[0],), daemon=True).start()

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(begins)
            while True:
                connection.sendall(drop)
                time.sleep(pause)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("part", DRIPPING)
def test_a_dripping_answer_ends_at_the_deadline(connect, ask, part):
    policy = connect(retries=0)
    policy.server.timeout = 0.2
    request = replace(ask(policy), on_text=(lambda text: None) if part in ("events", "pings") else None)
    with dripping(*DRIPPING[part], 0.05) as policy.server.url:
        begin = time.monotonic()
        with pytest.raises(TimedOut, match=r"did not answer within 0\.2 s"):
            policy.generate([request])
        assert time.monotonic() - begin < 1.5


@pytest.mark.parametrize(
    ("begins", "drop", "problem"),
    [
        (b"data: ", b"x" * (1 << 20), "sends a line of more than 4 MiB"),
        (b"", b"x" * (1 << 20), "sends a line of more than 4 MiB"),
        (b"", (b":" + b" " * 10_000 + b"\n") * 100, "sends more than 32 MiB"),
    ],
)
def test_a_stream_without_end_is_not_taken_in(connect, ask, begins, drop, problem):
    policy = connect(retries=0)
    request = replace(ask(policy), on_text=lambda text: None)
    with (
        dripping(b"HTTP/1.0 200 OK\r\n\r\n" + begins, drop, 0) as policy.server.url,
        pytest.raises(UserError, match=problem),
    ):
        policy.generate([request])


@pytest.mark.parametrize("event", ["[1]", '{"choices": [{"delta": {"content": ["a"]}}]}', '{"usage": 7}', DEEP])
def test_a_stream_of_other_types_is_one_line(server, connect, ask, event):
    server.script = [(200, f"data: {event}\n\n")]
    policy = connect()
    with pytest.raises(UserError, match=r"streams something else|does not answer in JSON"):
        policy.generate([replace(ask(policy), on_text=lambda text: None)])


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_one_line(server, connect, ask, status):
    server.script = [(status, {"error": {"message": "bad key sk-..."}})]
    policy = connect()
    with pytest.raises(UserError, match=rf"refuses the key \({status}\); set OPENAI_API_KEY"):
        policy.generate([ask(policy)])


def test_the_key_comes_from_the_environment(server, connect, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    connect()
    monkeypatch.setenv("OPENAI_API_KEY", "abc")
    connect()
    assert server.keys == [None, "Bearer abc"]


def test_the_frame_of_a_released_checkpoint_is_known_by_name(server):
    server.models = {"data": [{"id": "Ricky06662/VisionReasoner-7B"}]}
    policy = load_policy(server.url)
    assert (policy.frame, policy.prompt, policy.name) == (
        stretch(840),
        "vision_reasoner",
        "Ricky06662/VisionReasoner-7B",
    )


def test_the_frame_is_read_where_the_servers_folder_can_be(server, checkpoints):
    server.models = {"data": [{"id": "served", "root": str(checkpoints["qwen3_vl"])}]}
    policy = load_policy(server.url)
    assert (policy.name, policy.frame.kind, policy.frame.factor, policy.prompt) == ("served", "relative", 32, "multi")


@pytest.mark.parametrize(
    ("text", "frame"), [("native", native()), ("relative(1000)", relative(1000)), ("stretch(448)", stretch(448))]
)
def test_a_frame_can_be_given(server, text, frame):
    assert load_policy(server.url, frame=text).frame == frame


def test_an_unknown_frame_is_asked_for(server):
    with pytest.raises(UserError, match=r"pass frame='native' for a Qwen2\.5-VL"):
        load_policy(server.url)


def test_of_several_models_one_is_named(server):
    server.models = {"data": [{"id": "large"}, {"id": "small"}]}
    with pytest.raises(UserError, match=r"serves 2 models \(large, small\); name one: MODEL@"):
        load_policy(server.url, frame="native")
    assert load_policy(f"small@{server.url}", frame="native").name == "small"
    with pytest.raises(UserError, match=r"unknown model at .* 'smal'; did you mean 'small'"):
        load_policy(f"smal@{server.url}", frame="native")


def test_a_wrong_path_is_one_line(server):
    with pytest.raises(UserError, match=r"has no /models \(404\); an OpenAI-compatible address ends in /v1"):
        load_policy(server.url.removesuffix("/v1"), frame="native")


@pytest.mark.parametrize("models", ["<html>", "[1]", '{"data": null}'])
def test_another_kind_of_server_is_one_line(server, models):
    server.models = models
    with pytest.raises(UserError, match="an OpenAI-compatible address ends in /v1"):
        load_policy(server.url, frame="native")


def test_no_server_is_one_line():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    with pytest.raises(UserError, match=r"no server at .*Connection refused.*; start one: vllm serve MODEL"):
        load_policy(url, frame="native")


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("http://127.0.0.1:8000/v1", (None, "http://127.0.0.1:8000/v1")),
        ("owner/model@https://host/v1/", ("owner/model", "https://host/v1")),
        ("http://[::1]:80/v1", (None, "http://[::1]:80/v1")),
    ],
)
def test_addresses_are_taken_apart(address, parts):
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address", ["some/folder", "http://host:port/v1", "ftp://host/v1", "@http://host/v1", "http://"]
)
def test_other_addresses_are_refused(address):
    with pytest.raises(UserError, match="is not a server's address; write http://HOST:PORT/v1"):
        split_address(address)


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory):
    """A real `vllm serve` of the shipped policy on this machine's loopback."""
    from segzero.shipped import policy_path

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_COMPILE_DISABLE": "1",
    }
    log = (tmp_path_factory.mktemp("vllm") / "log").open("w+")
    # What `vllm serve` runs; the command itself asks for a distribution called vllm, and the CPU's is vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", policy_path(), "--enforce-eager"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "1024"]
    process = subprocess.Popen(
        [*command, "--served-model-name", "shipped"], stdout=log, stderr=log, env=environment, start_new_session=True
    )
    try:
        until = time.monotonic() + 900
        while not answers(f"http://127.0.0.1:{port}/health"):
            log.seek(0)
            assert process.poll() is None and time.monotonic() < until, log.read()[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it leads a group of its own, with its engine in it
        process.wait()
        log.close()


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False


@pytest.mark.slow
def test_vllm_serve_says_what_transformers_says(vllm_server, pipeline, held_out_requests):
    served = load_policy(vllm_server)
    assert (served.frame, served.prompt) == (pipeline.policy.frame, pipeline.policy.prompt)
    bounded = Sampling(max_tokens=200)
    assert served.generate(held_out_requests, bounded) == pipeline.policy.generate(held_out_requests, bounded)


@pytest.mark.slow
def test_vllm_serve_draws_by_the_seed(vllm_server, held_out_requests):
    served = load_policy(f"shipped@{vllm_server}")
    drawn = served.generate(held_out_requests[:1] * 6, Sampling(1.5, 40, seed=1))
    assert len({reply.text for reply in drawn}) > 1
    assert served.generate(held_out_requests[:1] * 6, Sampling(1.5, 40, seed=1)) == drawn

"""Answers that are streamed while they are written: the growing text, then either the round or an error."""

import asyncio
import json
import threading
from concurrent.futures import Future

import httpx
import pytest

from segzero.errors import Unavailable, UserError
from segzero.serving.client import Client
from segzero.serving.limits import Limits
from segzero.serving.streaming import EventStream, TextStream
from tests.helpers import servers
from tests.helpers.servers import events, wait_until

STREAM = {"Accept": "text/event-stream"}


class Wire:
    """The messages of a response, recorded as an ASGI server would get them."""

    def __init__(self) -> None:
        self.sent, self.left = [], asyncio.Event()

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    @property
    def events(self):
        return events(b"".join(message.get("body", b"") for message in self.sent).decode().splitlines())


def stream(begin, seconds: float = 5.0):
    """Send a stream for the future that `begin(text_stream)` returns."""

    async def run() -> Wire:
        text_stream, wire = TextStream(), Wire()
        response = EventStream(text_stream, lambda: begin(text_stream), lambda done: {"number": done})
        scope = {"segzero.deadline": asyncio.get_running_loop().time() + seconds}
        await response(scope, wire.receive, wire.send)
        return wire

    return asyncio.run(run())


def test_each_part_is_sent_once_even_if_the_answer_is_begun_anew():
    done: Future = Future()

    def write(text_stream):
        for text in ("<th", "<think>", "<t", "<think>The", "<think>The mug"):
            text_stream.on_text(text)
        done.set_result(1)

    def begin(text_stream):
        threading.Thread(target=write, args=(text_stream,)).start()
        return done

    wire = stream(begin)
    *texts, last = wire.events
    assert "".join(content["text"] for name, content in texts) == "<think>The mug" and {name for name, _ in texts} == {
        "text"
    }
    assert last == ("round", {"number": 1})
    assert wire.sent[-1]["more_body"] is False
    assert b"content-length" not in dict(wire.sent[0]["headers"])


def test_text_that_comes_while_an_earlier_part_is_sent_is_not_lost():
    done: Future = Future()

    async def run() -> Wire:
        text_stream, wire = TextStream(), Wire()

        async def send(message):
            wire.sent.append(message)
            if b"first" in message.get("body", b""):
                text_stream.on_text("first last")
                done.set_result(1)
                await asyncio.sleep(0.05)

        def begin():
            text_stream.on_text("first")
            return done

        scope = {"segzero.deadline": asyncio.get_running_loop().time() + 5}
        await EventStream(text_stream, begin, lambda number: {"number": number})(scope, wire.receive, send)
        return wire

    assert asyncio.run(run()).events == [
        ("text", {"text": "first"}),
        ("text", {"text": " last"}),
        ("round", {"number": 1}),
    ]


@pytest.mark.parametrize(
    ("error", "status", "again"),
    [(UserError("no round 3"), 422, None), (Unavailable("at http://10.0.0.7"), 503, 5), (TimeoutError(), 500, None)],
)
def test_a_failure_is_one_event(error, status, again):
    def begin(text_stream):
        done: Future = Future()
        done.set_exception(error)
        return done

    if status == 500:  # the log gets it too
        with pytest.raises(TimeoutError):
            stream(begin)
        return
    [(name, content)] = stream(begin).events
    assert name == "error" and content["status"] == status and content.get("retry_after") == again
    assert "10.0.0.7" not in content["error"]["message"]


def test_at_the_deadline_the_stream_ends_with_504_and_the_work_is_cancelled():
    work: Future = Future()
    [*_, (name, content)] = stream(lambda text_stream: work, seconds=0.2).events
    assert (name, content["status"], content["error"]["code"]) == ("error", 504, "timed_out")
    assert work.cancelled()


@pytest.mark.slow
def test_a_stream_ends_with_the_answer_of_a_plain_request(server, held_out):
    image, question = held_out[0].image, held_out[0].question
    client = Client(server.url)
    with client.dialogue(image) as plain, client.dialogue(image) as streamed, server.http() as http:
        expected = http.post(f"{plain.path}/ask", json={"question": question}).json()
        with http.stream("POST", f"{streamed.path}/ask", json={"question": question}, headers=STREAM) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            *texts, (name, content) = events(response.iter_lines())
        assert name == "round" and content == expected
        assert {name for name, _ in texts} == {"text"} and len(texts) > 5
        assert "".join(each["text"] for _, each in texts) == expected["raw_text"]
        texts = []
        result = streamed.ask("the largest shape", on_text=texts.append)
        assert texts[-1] == result.raw_text and texts == sorted(texts, key=len) and len(streamed.rounds()) == 2


@pytest.mark.slow
def test_streams_share_batches_and_are_not_mixed_up(server, held_out):
    from concurrent.futures import ThreadPoolExecutor

    client = Client(server.url)
    made = [client.dialogue(sample.image) for sample in held_out[:6]]
    batches = []
    server.pool.batcher.on_batch, seen = lambda items, seconds: batches.append(items), server.pool.batcher.on_batch

    def ask(n: int) -> bool:
        texts: list[str] = []
        result = made[n].ask(held_out[n].question, on_text=texts.append if n % 2 else None)
        return not texts or texts[-1] == result.raw_text

    try:
        with server.models_blocked(), ThreadPoolExecutor(6) as clients:
            asked = [clients.submit(ask, n) for n in range(6)]
            wait_until(lambda: len(server.pool.batcher) == 6)
            server.release.set()
            assert all(future.result(30) for future in asked)
    finally:
        server.pool.batcher.on_batch = seen
    assert 6 in batches


@pytest.mark.slow
def test_mistakes_are_error_events_or_plain_error_responses(server, held_out):
    client = Client(server.url)
    with client.dialogue(held_out[0].image) as dialogue, server.http() as http:
        refused = http.post(f"{dialogue.path}/ask", json={"question": "x" * 3000}, headers=STREAM)
        assert refused.status_code == 422 and refused.json()["error"]["code"] == "question_too_long"
        with http.stream("POST", f"{dialogue.path}/ask", json={"question": "on [REF:3]"}, headers=STREAM) as response:
            [(name, content)] = events(response.iter_lines())
        assert name == "error" and "no round 3" in content["error"]["message"]
        with pytest.raises(UserError, match="no round 3"):
            dialogue.ask("on [REF:3]", on_text=lambda text: None)
        assert dialogue.rounds() == []


@pytest.mark.slow
def test_a_client_that_leaves_its_stream_takes_no_step(pipeline, held_out):
    with servers.running(pipeline, Limits()) as server, server.http() as http:
        dialogue = Client(server.url).dialogue(held_out[0].image)
        with server.models_blocked():
            question = {"question": held_out[0].question}
            with (
                pytest.raises(httpx.ReadTimeout),
                http.stream("POST", f"{dialogue.path}/ask", json=question, headers=STREAM, timeout=0.5) as response,
            ):
                list(response.iter_lines())
            wait_until(lambda: "segzero_requests_inside 0.0" in http.get("/metrics").text)
        assert dialogue.rounds() == []
        assert '/ask",status="499"} 1.0' in http.get("/metrics").text


def test_events_are_read_as_browsers_read_them():
    lines = [": wait", "", "event: text", 'data: {"text": "a"}', "", "event: round", f"data: {json.dumps({})}", ""]
    assert events(lines) == [("text", {"text": "a"}), ("round", {})]

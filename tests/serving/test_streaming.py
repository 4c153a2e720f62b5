"""Answers that are followed while they are written: the text as it grows, then the round, and never both ends."""

import asyncio
import json
import threading
from concurrent.futures import Future

import httpx
import pytest

from segzero.errors import Unavailable, UserError
from segzero.serving.client import Client
from segzero.serving.limits import Limits
from segzero.serving.streaming import EventStream, Heard
from tests.helpers import servers
from tests.helpers.servers import events, wait_until

STREAM = {"Accept": "text/event-stream"}


class Wire:
    """What an ASGI server would do with a response."""

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


def stream(begin, ends: float = 5.0):
    """What is sent of work that `begin(heard)` gives as a future."""

    async def run() -> Wire:
        heard, wire = Heard(), Wire()
        response = EventStream(heard, lambda: begin(heard), lambda done: {"number": done}, lambda: 3.0)
        scope = {"segzero.ends": asyncio.get_running_loop().time() + ends}
        await response(scope, wire.receive, wire.send)
        return wire

    return asyncio.run(run())


def test_what_is_new_is_sent_once_even_if_the_answer_is_begun_anew():
    done: Future = Future()

    def write(heard):
        for text in ("<th", "<think>", "<t", "<think>The", "<think>The mug"):
            heard.on_text(text)
        done.set_result(1)

    def begin(heard):
        threading.Thread(target=write, args=(heard,)).start()
        return done

    wire = stream(begin)
    *texts, last = wire.events
    assert "".join(told["text"] for name, told in texts) == "<think>The mug" and {name for name, _ in texts} == {"text"}
    assert last == ("round", {"number": 1})
    assert wire.sent[-1]["more_body"] is False
    assert b"content-length" not in dict(wire.sent[0]["headers"])


def test_last_words_that_come_while_others_are_sent_are_not_lost():
    done: Future = Future()

    async def run() -> Wire:
        heard, wire = Heard(), Wire()

        async def send(message):
            wire.sent.append(message)
            if b"first" in message.get("body", b""):
                heard.on_text("first last")
                done.set_result(1)
                await asyncio.sleep(0.05)

        def begin():
            heard.on_text("first")
            return done

        scope = {"segzero.ends": asyncio.get_running_loop().time() + 5}
        await EventStream(heard, begin, lambda told: {"number": told}, lambda: 3.0)(scope, wire.receive, send)
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
    def begin(heard):
        done: Future = Future()
        done.set_exception(error)
        return done

    if status == 500:  # the log gets it too
        with pytest.raises(TimeoutError):
            stream(begin)
        return
    [(name, told)] = stream(begin).events
    assert name == "error" and told["status"] == status and told.get("retry_after") == again
    assert "10.0.0.7" not in told["error"]["message"]


def test_time_that_is_over_is_told_and_the_work_given_up():
    work: Future = Future()
    [*_, (name, told)] = stream(lambda heard: work, ends=0.2).events
    assert (name, told["status"], told["error"]["code"]) == ("error", 504, "timed_out")
    assert work.cancelled()


@pytest.mark.slow
def test_the_stream_is_the_answer_without_it(server, held_out):
    image, question = held_out[0].image, held_out[0].question
    client = Client(server.url)
    with client.dialogue(image) as plain, client.dialogue(image) as followed, server.http() as http:
        expected = http.post(f"{plain.path}/ask", json={"question": question}).json()
        with http.stream("POST", f"{followed.path}/ask", json={"question": question}, headers=STREAM) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            *texts, (name, told) = events(response.iter_lines())
        assert name == "round" and told == expected
        assert {name for name, _ in texts} == {"text"} and len(texts) > 5
        assert "".join(each["text"] for _, each in texts) == expected["raw_text"]
        heard = []
        result = followed.ask("the largest shape", on_text=heard.append)
        assert heard[-1] == result.raw_text and heard == sorted(heard, key=len) and len(followed.rounds()) == 2


@pytest.mark.slow
def test_streams_share_batches_and_are_not_mixed_up(server, held_out):
    from concurrent.futures import ThreadPoolExecutor

    client = Client(server.url)
    made = [client.dialogue(sample.image) for sample in held_out[:6]]
    batches = []
    server.models.batcher.seen, seen = lambda items, seconds: batches.append(items), server.models.batcher.seen

    def ask(n: int) -> bool:
        heard: list[str] = []
        result = made[n].ask(held_out[n].question, on_text=heard.append if n % 2 else None)
        return not heard or heard[-1] == result.raw_text

    try:
        with server.held(), ThreadPoolExecutor(6) as clients:
            asked = [clients.submit(ask, n) for n in range(6)]
            wait_until(lambda: len(server.models.batcher) == 6)
            server.go.set()
            assert all(future.result(30) for future in asked)
    finally:
        server.models.batcher.seen = seen
    assert 6 in batches


@pytest.mark.slow
def test_mistakes_are_events_or_plain_answers_but_never_silence(server, held_out):
    client = Client(server.url)
    with client.dialogue(held_out[0].image) as dialogue, server.http() as http:
        refused = http.post(f"{dialogue.path}/ask", json={"question": "x" * 3000}, headers=STREAM)
        assert refused.status_code == 422 and refused.json()["error"]["code"] == "question_too_long"
        with http.stream("POST", f"{dialogue.path}/ask", json={"question": "on [REF:3]"}, headers=STREAM) as response:
            [(name, told)] = events(response.iter_lines())
        assert name == "error" and "no round 3" in told["error"]["message"]
        with pytest.raises(UserError, match="no round 3"):
            dialogue.ask("on [REF:3]", on_text=lambda text: None)
        assert dialogue.rounds() == []


@pytest.mark.slow
def test_a_client_that_leaves_its_stream_takes_no_step(pipeline, held_out):
    with servers.running(pipeline, Limits()) as server, server.http() as http:
        dialogue = Client(server.url).dialogue(held_out[0].image)
        with server.held():
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

"""A policy behind somebody else's server: while that is gone its questions get 503, and all else goes on."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from segzero.errors import UserError
from segzero.pipeline import SegZeroPipeline
from segzero.policy import load_policy
from segzero.serving.batching import Batcher
from segzero.serving.client import Client
from segzero.serving.limits import Limits
from segzero.serving.options import Extras
from tests.helpers import servers
from tests.helpers.policy_server import Speaker, speaking
from tests.helpers.servers import wait_until

ANSWER = ['<think>it</think><answer>[{"bbox_2d": [10, 20, 60, 80], ', '"point_2d": [30, 50]}]</answer>']


def test_a_server_that_is_gone_is_told_to_all_of_a_batch_at_once():
    from segzero.errors import Unavailable

    calls = []

    def ask(items):
        calls.append(items)
        raise Unavailable("no server")

    def check():
        raise AssertionError("the models are fine")

    batcher = Batcher(check, linger=0.2)
    futures = [batcher.submit(ask, n) for n in range(3)]
    for future in futures:
        with pytest.raises(Unavailable):
            future.result(5)
    assert calls == [[0, 1, 2]] and not batcher.why_dead
    assert batcher.close(5)


@pytest.fixture
def elsewhere(pipeline):
    """A policy elsewhere, what it says, and a server that asks it; the shipped policy is there too."""
    speaker = Speaker(ANSWER)
    with speaking(speaker):
        policy = load_policy(speaker.url, frame=str(pipeline.policy.frame), prompt="multi", timeout=1.0, retries=0)
    own = SegZeroPipeline(policy, pipeline.segmenter)
    extras = Extras((pipeline.policy,))
    with servers.running(own, Limits(seconds=10), extras=extras) as server:
        yield speaker, server  # the one elsewhere is closed: whoever wants it opens it again


@pytest.mark.slow
def test_nobody_dies_of_a_policy_that_is_gone(elsewhere, held_out):
    speaker, server = elsewhere
    image = held_out[0].image
    fields = {"files": {"image": image}, "data": {"question": "the shape"}}
    here = server.models.policies[1]
    with server.http() as http:
        dialogue = Client(server.url).dialogue(image)
        for _ in range(2):
            gone = http.post("/v1/segment", **fields)
            assert gone.status_code == 503 and int(gone.headers["Retry-After"]) >= 1
            assert gone.json()["error"]["code"] == "unavailable" and str(speaker.port) not in gone.text
            asked = http.post(f"{dialogue.path}/ask", json={"question": "the shape"})
            assert asked.status_code == 503 and dialogue.rounds() == []
            with http.stream(
                "POST", f"{dialogue.path}/ask", json={"question": "the shape"}, headers={"Accept": "text/event-stream"}
            ) as response:
                [(name, told)] = servers.events(response.iter_lines())
            assert (name, told["status"], told["retry_after"]) == ("error", 503, 5)
            # The other policy and the segmenter work as ever.
            both = {**fields, "data": {"question": "the shape", "policy": here}}
            assert http.post("/v1/segment", **both).status_code == 200
            assert dialogue.draw([(112, 112)]).instances
            dialogue.undo()
        assert http.get("/readyz").status_code == 200
        with speaking(speaker):
            answer = http.post("/v1/segment", **fields)
            assert answer.status_code == 200 and len(answer.json()["instances"]) == 1
            heard = []
            assert dialogue.ask("the shape", on_text=heard.append).raw_text == heard[-1] == "".join(ANSWER)
        # A failure that needs a check of all models does not die of the one that is gone either.
        with pytest.raises(RuntimeError, match="out of order"):
            server.models.batcher.submit(break_down, 1).result(10)
        assert http.get("/readyz").status_code == 200 and not server.models.batcher.why_dead


def break_down(items):
    raise RuntimeError("out of order")


@pytest.mark.slow
def test_a_policy_that_takes_too_long_is_a_time_out(elsewhere, held_out):
    speaker, server = elsewhere
    speaker.pause = 3.0
    with speaking(speaker), server.http() as http:
        fields = {"files": {"image": held_out[0].image}, "data": {"question": "the shape"}}
        slow = http.post("/v1/segment", **fields)
        assert slow.status_code == 504 and str(speaker.port) not in slow.text
        assert http.get("/readyz").status_code == 200


@pytest.mark.slow
def test_a_policy_that_dawdles_keeps_nobody_else_waiting(elsewhere, held_out):
    speaker, server = elsewhere
    speaker.pause, server.models.pipeline.policy.timeout = 4.0, 9.0
    fields = {"files": {"image": held_out[0].image}, "data": {"question": "the shape"}}
    here = {**fields, "data": {"question": "the shape", "policy": server.models.policies[1]}}
    with speaking(speaker), server.http() as http, ThreadPoolExecutor(1) as beside:
        slow = beside.submit(http.post, "/v1/segment", **fields)
        wait_until(lambda: speaker.asked)
        assert http.post("/v1/segment", **here).status_code == 200
        with Client(server.url).dialogue(held_out[0].image) as dialogue:
            assert dialogue.draw([(112, 112)]).instances
        assert not slow.done()
        assert slow.result().status_code == 200 and slow.result().json()["instances"]


@pytest.mark.slow
def test_a_server_ends_although_a_policy_dawdles(elsewhere, held_out):
    speaker, server = elsewhere
    speaker.pause, server.models.pipeline.policy.timeout = 12.0, 30.0
    fields = {"files": {"image": held_out[0].image}, "data": {"question": "the shape"}}
    with speaking(speaker), server.http() as http:
        assert http.post("/v1/segment", **fields).status_code == 504  # after its 10 s
        begin = time.monotonic()
        server.server.should_exit = True
        server.thread.join(10)
        assert not server.thread.is_alive() and time.monotonic() - begin < 1.5


@pytest.mark.slow
def test_a_process_ends_although_a_policy_dawdles(started, pipeline, held_out):
    speaker = Speaker(ANSWER)
    speaker.pause = 40.0
    with speaking(speaker):
        frame = str(pipeline.policy.frame)
        url, process, _ = started("--policy", speaker.url, "--frame", frame, "--prompt", "multi", backend="openai")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/segment", files={"image": held_out[0].image}, data={"question": "it"}, timeout=2)
        wait_until(lambda: speaker.asked)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.slow
def test_the_client_waits_and_asks_again(elsewhere, held_out):
    _, server = elsewhere
    with pytest.raises(UserError, match="answered 503"):
        Client(server.url, retries=0).segment(held_out[0].image, "the shape")
    assert httpx.get(server.url + "/healthz").status_code == 200

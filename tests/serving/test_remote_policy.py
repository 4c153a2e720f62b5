"""A policy behind another server: while that is gone or slow, only the questions for it fail or wait."""

import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from segzero.errors import UserError
from segzero.pipeline import SegZeroPipeline
from segzero.policy import load_policy
from segzero.serving.batching import BatchKey
from segzero.serving.client import Client
from segzero.serving.limits import Limits
from segzero.serving.options import ServerOptions
from tests.helpers import servers
from tests.helpers.policy_server import ScriptedPolicyServer
from tests.helpers.servers import wait_until

ANSWER = ['<think>it</think><answer>[{"bbox_2d": [10, 20, 60, 80], ', '"point_2d": [30, 50]}]</answer>']


@pytest.fixture
def remote(pipeline):
    """A policy server, stopped until a test runs it, and a server that has its policy and the shipped one."""
    policy_server = ScriptedPolicyServer(ANSWER)
    with policy_server.running():
        url, frame = policy_server.url, str(pipeline.policy.frame)
        policy = load_policy(url, frame=frame, prompt="multi", timeout=1.0, retries=0)
    options = ServerOptions((pipeline.policy,))
    with servers.running(SegZeroPipeline(policy, pipeline.segmenter), Limits(seconds=10), options=options) as server:
        yield policy_server, server


def question(sample) -> dict:
    """The fields of a question for `httpx.post`."""
    return {"files": {"image": sample.image}, "data": {"question": "the shape"}}


@pytest.mark.slow
def test_only_questions_for_a_policy_that_is_gone_fail(remote, held_out):
    policy_server, server = remote
    image = held_out[0].image
    fields = question(held_out[0])
    shipped = server.pool.policies[1]
    with server.http() as http:
        dialogue = Client(server.url).dialogue(image)
        for _ in range(2):
            gone = http.post("/v1/segment", **fields)
            assert gone.status_code == 503 and int(gone.headers["Retry-After"]) >= 1
            assert gone.json()["error"]["code"] == "unavailable" and str(policy_server.port) not in gone.text
            asked = http.post(f"{dialogue.path}/ask", json={"question": "the shape"})
            assert asked.status_code == 503 and dialogue.rounds() == []
            with http.stream(
                "POST", f"{dialogue.path}/ask", json={"question": "the shape"}, headers={"Accept": "text/event-stream"}
            ) as response:
                [(name, content)] = servers.events(response.iter_lines())
            assert (name, content["status"], content["retry_after"]) == ("error", 503, 5)
            # The other policy and the segmenter still work.
            both = {**fields, "data": {"question": "the shape", "policy": shipped}}
            assert http.post("/v1/segment", **both).status_code == 200
            assert dialogue.draw([(112, 112)]).instances
            dialogue.undo()
        assert http.get("/readyz").status_code == 200
        with policy_server.running():
            answer = http.post("/v1/segment", **fields)
            assert answer.status_code == 200 and len(answer.json()["instances"]) == 1
            texts = []
            assert dialogue.ask("the shape", on_text=texts.append).raw_text == texts[-1] == "".join(ANSWER)
        # A check of the models after some other failure passes, although that policy is gone again.
        with pytest.raises(RuntimeError, match="out of order"):
            server.pool.batcher.submit(BatchKey("break", "test"), break_down, 1).result(10)
        assert http.get("/readyz").status_code == 200 and not server.pool.batcher.failure


def break_down(items):
    raise RuntimeError("out of order")


@pytest.mark.slow
def test_a_policy_that_takes_too_long_is_a_time_out(remote, held_out):
    policy_server, server = remote
    policy_server.pause = 3.0
    with policy_server.running(), server.http() as http:
        slow = http.post("/v1/segment", **question(held_out[0]))
        assert slow.status_code == 504 and str(policy_server.port) not in slow.text
        assert http.get("/readyz").status_code == 200


@pytest.mark.slow
def test_a_slow_policy_does_not_delay_other_requests(remote, held_out):
    policy_server, server = remote
    policy_server.pause, server.pool.default.pipeline.policy.server.timeout = 4.0, 9.0
    fields = question(held_out[0])
    shipped = {**fields, "data": {"question": "the shape", "policy": server.pool.policies[1]}}
    with policy_server.running(), server.http() as http, ThreadPoolExecutor(1) as other:
        slow = other.submit(http.post, "/v1/segment", **fields)
        wait_until(lambda: policy_server.requests)
        assert http.post("/v1/segment", **shipped).status_code == 200
        with Client(server.url).dialogue(held_out[0].image) as dialogue:
            assert dialogue.draw([(112, 112)]).instances
        assert not slow.done()
        assert slow.result().status_code == 200 and slow.result().json()["instances"]


@pytest.mark.slow
def test_a_server_ends_without_waiting_for_a_slow_policy(remote, held_out):
    policy_server, server = remote
    policy_server.pause, server.pool.default.pipeline.policy.server.timeout = 60.0, 90.0
    with policy_server.running(), server.http() as http:
        assert http.post("/v1/segment", **question(held_out[0])).status_code == 504  # after its 10 s
        server.server.should_exit = True
        server.thread.join(10)
        assert not server.thread.is_alive() and policy_server.responses == 0
        assert server.pool.busy()  # with the question that the policy has not answered yet


@pytest.mark.slow
def test_a_process_ends_without_waiting_for_a_slow_policy(start_server, pipeline, held_out):
    policy_server = ScriptedPolicyServer(ANSWER, pause=60.0)
    with policy_server.running():
        options = ["--policy", policy_server.url, "--frame", str(pipeline.policy.frame), "--prompt", "multi"]
        running = start_server(*options, backend="openai")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{running.url}/v1/segment", timeout=2, **question(held_out[0]))
        wait_until(lambda: policy_server.requests)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 0 and policy_server.responses == 0


@pytest.mark.slow
def test_the_client_reports_a_policy_that_stays_away(remote, held_out):
    _, server = remote
    with pytest.raises(UserError, match="answered 503"):
        Client(server.url, retries=0).segment(held_out[0].image, "the shape")
    assert httpx.get(server.url + "/healthz").status_code == 200

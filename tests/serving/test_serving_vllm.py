"""vLLM behind the server, its engine started for real."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from segzero.errors import UserError
from segzero.masks import mask_iou
from segzero.pipeline import SegZeroPipeline
from segzero.policy import load_policy
from segzero.serving.client import Client
from segzero.serving.limits import Limits
from segzero.shipped import policy_path
from tests.helpers import servers

pytestmark = pytest.mark.slow


def test_vllm_answers_several_at_once_and_streams(start_server, pipeline, held_out):
    samples = held_out[:4]
    expected = pipeline([sample.image for sample in samples], [sample.question for sample in samples])
    running = start_server(backend="vllm")
    assert running.process.poll() is None, running.log.read_text()[-2000:]
    client, texts = Client(running.url), []
    with ThreadPoolExecutor(4) as clients, client.dialogue(samples[0].image) as dialogue:
        streamed = clients.submit(dialogue.ask, samples[0].question, on_text=texts.append)
        others = [clients.submit(client.segment, sample.image, sample.question) for sample in samples[1:]]
        results = [streamed.result(60), *(other.result(60) for other in others)]
    for result, truth in zip(results, expected, strict=True):
        assert result.raw_text == truth.raw_text and mask_iou(result.union, truth.union) > 0.99
    assert texts[-1] == results[0].raw_text
    # A busy machine may get a whole answer in one piece, so one try of three is enough.
    assert any(is_streamed_in_pieces(client, samples[0]) for _ in range(3))
    assert any(later_answer_begins_before_the_first_ends(client, samples) for _ in range(3))
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 0


def test_an_engine_that_fails_gives_503_and_the_server_ends(pipeline, held_out, monkeypatch):
    policy = load_policy(policy_path(), "vllm")
    engine = policy.llm.llm_engine
    with servers.running(SegZeroPipeline(policy, pipeline.segmenter)) as server, ThreadPoolExecutor(6) as clients:
        client = Client(server.url, retries=0)
        assert client.segment(held_out[0].image, held_out[0].question).raw_text

        def fail():
            raise RuntimeError("the device is gone")

        monkeypatch.setattr(engine, "step", fail)
        asked = [clients.submit(client.segment, sample.image, sample.question) for sample in held_out[:6]]
        for future in asked:
            with pytest.raises(UserError, match="answered 503"):
                future.result(30)
        server.thread.join(10)
        assert not server.thread.is_alive() and "the device is gone" in server.pool.batcher.failure
    monkeypatch.undo()
    policy.close()


def test_an_engine_that_hangs_ends_the_server(pipeline, held_out, monkeypatch):
    policy, go = load_policy(policy_path(), "vllm"), threading.Event()
    monkeypatch.setattr(policy.llm.llm_engine, "step", lambda: go.wait(60) and [])
    with servers.running(SegZeroPipeline(policy, pipeline.segmenter), Limits(seconds=1)) as server:
        with server.http() as http, ThreadPoolExecutor(2) as clients:
            fields = {"files": {"image": held_out[0].image}, "data": {"question": "it"}}
            assert http.post("/v1/segment", **fields).status_code == 504
            time.sleep(3.6)  # it is given up after 5 s
            assert clients.submit(http.post, "/v1/segment", **fields).result().status_code == 503
        server.thread.join(5)
        assert not server.thread.is_alive() and server.pool.busy()
    go.set()
    monkeypatch.undo()
    policy.close()


def is_streamed_in_pieces(client, sample) -> bool:
    texts = []
    with client.dialogue(sample.image) as dialogue:
        dialogue.ask(sample.question, on_text=texts.append)
    return len(texts) > 5


def later_answer_begins_before_the_first_ends(client, samples) -> bool:
    """Whether a question that comes while another's answer is written is answered meanwhile."""
    begun, times = threading.Event(), []
    with (
        client.dialogue(samples[0].image) as one,
        client.dialogue(samples[1].image) as other,
        ThreadPoolExecutor(1) as executor,
    ):
        first = executor.submit(one.ask, samples[0].question, on_text=lambda text: begun.set())
        first.add_done_callback(lambda future: times.append(time.monotonic()))
        assert begun.wait(30)
        later_times = []
        other.ask(samples[1].question, on_text=lambda text: later_times.append(time.monotonic()))
        assert first.result(30)
    return later_times[0] < times[0]

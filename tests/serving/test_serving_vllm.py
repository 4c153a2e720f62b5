"""vLLM behind the server, its engine started for real."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from segzero.masks import mask_iou
from segzero.serving.client import Client

pytestmark = pytest.mark.slow


def test_vllm_answers_several_at_once_and_is_followed(started, pipeline, held_out):
    samples = held_out[:4]
    expected = pipeline([sample.image for sample in samples], [sample.question for sample in samples])
    url, process, log = started(backend="vllm")
    assert process.poll() is None, log.read_text()[-2000:]
    client, heard = Client(url), []
    with ThreadPoolExecutor(4) as clients, client.dialogue(samples[0].image) as dialogue:
        followed = clients.submit(dialogue.ask, samples[0].question, hear=heard.append)
        others = [clients.submit(client.segment, sample.image, sample.question) for sample in samples[1:]]
        results = [followed.result(60), *(other.result(60) for other in others)]
    for result, truth in zip(results, expected, strict=True):
        assert result.raw_text == truth.raw_text and mask_iou(result.union, truth.union) > 0.99
    assert heard[-1] == results[0].raw_text and len(heard) > 5
    assert later_answer_begins_before_the_first_ends(client, samples)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def later_answer_begins_before_the_first_ends(client, samples) -> bool:
    """Whoever asks while another's answer is being written is answered meanwhile."""
    begun, times = threading.Event(), []
    with (
        client.dialogue(samples[0].image) as one,
        client.dialogue(samples[1].image) as other,
        ThreadPoolExecutor(1) as beside,
    ):
        first = beside.submit(one.ask, samples[0].question, hear=lambda text: begun.set())
        first.add_done_callback(lambda future: times.append(time.monotonic()))
        assert begun.wait(30)
        heard = []
        other.ask(samples[1].question, hear=lambda text: heard.append(time.monotonic()))
        assert first.result(30)
    return heard[0] < times[0]

"""Stand-ins for the models that many requests share: one call for many items, and each item gets its own results."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from segzero.images import load_image
from segzero.masks import mask_iou
from segzero.pipeline import SegZeroPipeline
from segzero.policy import Reply, Request, Sampling
from segzero.segmenter import MaskPrompt
from segzero.serving.batching import BatchKey
from segzero.serving.limits import Limits
from segzero.serving.model_pool import ModelPool
from tests.helpers.recording import RecordingModel
from tests.helpers.servers import wait_until

IMAGE = Image.new("RGB", (64, 64), "teal")
PATIENT = Sampling(max_tokens=7)


class EchoPolicy:
    """A policy that repeats each request's message, and records its calls."""

    name, prompt, supports_concurrency = "echo", "multi", False

    def __init__(self, frame) -> None:
        self.frame, self.calls = frame, []

    def generate(self, requests, sampling=Sampling()):
        texts = [request.messages[0]["content"] for request in requests]
        self.calls.append((texts, sampling))
        return [Reply(text, 1, False) for text in texts]

    def close(self) -> None:
        pass


def requests(*texts: str) -> list[Request]:
    return [Request(IMAGE, [{"role": "user", "content": text}]) for text in texts]


@pytest.fixture
def pool(pipeline):
    """A pool with a policy that records its calls, and the shipped segmenter, which does so too."""
    made = ModelPool(SegZeroPipeline(EchoPolicy(pipeline.policy.frame), RecordingModel(pipeline.segmenter)), Limits())
    yield made
    made.close(10)


def run_together(pool: ModelPool, *steps) -> list:
    """Run steps at once, each in a thread of its own; their first calls are queued before one of them is answered."""
    begun, release = threading.Event(), threading.Event()
    pool.batcher.submit(BatchKey("block", "test"), lambda items: [(begun.set(), release.wait(30))], None)
    assert begun.wait(10)
    futures = [pool.run_step(step, threading.Lock()) for step in steps]
    wait_until(lambda: pool.waiting() == len(steps))
    release.set()
    return [future.result(30) for future in futures]


def test_requests_with_the_same_sampling_share_a_call_and_others_do_not(pool):
    policy = pool.default.pipeline.policy
    first, second, third = run_together(
        pool,
        lambda shared: shared.policy.generate(requests("a", "b"), PATIENT),
        lambda shared: shared.policy.generate(requests("c")),
        lambda shared: shared.policy.generate(requests("d"), PATIENT),
    )
    assert [[reply.text for reply in replies] for replies in (first, second, third)] == [["a", "b"], ["c"], ["d"]]
    calls = [(set(texts), sampling) for texts, sampling in policy.calls]
    assert len(calls) == 2 and ({"a", "b", "d"}, PATIENT) in calls and ({"c"}, Sampling()) in calls


def test_images_that_are_not_in_the_cache_share_a_call(pool, held_out):
    images = [load_image(sample.image) for sample in held_out[:3]]
    pool.default.cached_segmenter.embed(images[:1])
    encoded = pool.default.cached_segmenter.encoded
    one, two = run_together(
        pool,
        lambda shared: shared.segmenter.embed(images[:2]),
        lambda shared: shared.segmenter.embed(images[2:]),
    )
    assert (len(one), len(two)) == (2, 1) and pool.default.cached_segmenter.encoded == encoded + 2
    assert one.sizes == tuple(image.size for image in images[:2])


@pytest.mark.parametrize("all_masks", [False, True])
def test_prompts_are_drawn_together_and_given_back_to_their_images(pool, pipeline, held_out, all_masks):
    samples = [sample for sample in held_out if sample.objects][:3]
    embeddings = [pipeline.segmenter.embed([load_image(sample.image)]) for sample in samples]
    prompts = [[[MaskPrompt(box=each.box) for each in sample.objects]] for sample in samples]
    steps = [
        lambda shared, arguments=arguments: shared.segmenter.decode(*arguments, all_masks)
        for arguments in zip(embeddings, prompts, strict=True)
    ]
    drawn = run_together(pool, *steps)
    for result, *arguments in zip(drawn, embeddings, prompts, strict=True):
        expected = pipeline.segmenter.decode(*arguments, all_masks)
        assert [len(predictions) for predictions in result] == [len(predictions) for predictions in expected]
        for prediction, alone in zip(result[0], expected[0], strict=True):
            assert len(prediction.masks) == (3 if all_masks else 1)
            assert mask_iou(prediction.masks[0], alone.masks[0]) > 0.99


def test_a_step_that_is_cancelled_before_it_begins_is_not_run(pool):
    lock, ran = threading.Lock(), []
    with lock:
        future = pool.run_step(lambda shared: ran.append(1), lock)
        assert future.cancel()
    with ThreadPoolExecutor(1) as other:
        other.submit(pool.run_step(lambda shared: None, lock).result, 10).result()
    assert ran == []

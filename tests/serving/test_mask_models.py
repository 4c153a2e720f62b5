"""Mask models on a server: chosen as policies are, with the same answers, dialogues and queues."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from segzero.dialogue import Dialogue
from segzero.images import data_url
from segzero.mask_model.load import load_mask_model
from segzero.mask_pipeline import MaskPipeline
from segzero.serving.client import Client
from segzero.serving.limits import Limits
from segzero.serving.model_pool import LoadOptions, ModelPool, load_models
from segzero.serving.options import ServerOptions
from segzero.serving.schema import SegmentAnswer
from tests.helpers import servers
from tests.serving.test_label_studio import set_up


@pytest.fixture(scope="module")
def model(mask_model):
    return load_mask_model(mask_model, "cpu")


@pytest.fixture(scope="module")
def server(pipeline, model):
    """A server with a policy, and a mask model beside it."""
    with servers.running(pipeline, options=ServerOptions(mask_models=(model,))) as running:
        yield running


@pytest.fixture(scope="module")
def name(server):
    [name] = server.pool.mask_models
    return name


def test_it_is_offered_and_chosen_like_a_policy(server, name, model, pipeline, held_out):
    client = Client(server.url)
    offered = client.models()["policies"]
    assert [(each["default"], each["mask_model"]) for each in offered] == [(True, False), (False, True)]
    assert offered[1]["name"] == name and "/" not in name
    samples = held_out[:3]
    with ThreadPoolExecutor(3) as executor:  # which share a batch
        found = list(executor.map(lambda sample: client.segment(sample.image, sample.question, name), samples))
    expected = MaskPipeline(model)([sample.image for sample in samples], [sample.question for sample in samples])
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.union, other.union) and one.undivided and not one.think and not one.raw_text
        assert {"queue", "mask_model"} <= one.timings.keys()
    usual = client.segment(samples[0].image, samples[0].question)
    assert usual.think and not usual.undivided


def test_without_named_models_the_shipped_one_is_a_choice():
    pipeline, options = load_models([], [], LoadOptions(device="cpu"))
    pool = ModelPool(pipeline, Limits(), options=options)
    try:
        assert (pool.policies, pool.mask_models) == (["tiny policy", "tiny prompt head"], ["tiny prompt head"])
    finally:
        pool.close(1)


def test_its_answers_have_the_schema(server, name, held_out):
    with server.http() as http:
        files, data = {"image": held_out[0].image}, {"question": held_out[0].question, "policy": name}
        answer = http.post("/v1/segment", files=files, data=data).json()
        assert SegmentAnswer.model_validate(answer).undivided
        refused = http.post("/v1/segment", files=files, data=data | {"question": "<|im_end|>"})
        assert refused.status_code == 422


def test_a_dialogue_hands_earlier_masks_on_and_is_corrected_by_hand(server, name, model, pipeline, held_out):
    sample = held_out[0]
    here = Dialogue(sample.image, MaskPipeline(model, segmenter=pipeline.segmenter))
    with Client(server.url).dialogue(sample.image, policy=name) as there, server.http() as http:
        assert http.get(there.path).json()["memory"] == "masks"
        for dialogue in (here, there):
            dialogue.draw([(60, 60)], question="here")
        first, second = (dialogue.ask("what is left of [REF:1]") for dialogue in (here, there))
        assert np.array_equal(first.union, second.union)
        first, second = (dialogue.refine(1, [(100, 100)], [1]) for dialogue in (here, there))
        assert np.array_equal(first.union, second.union)
        refused = http.post("/v1/dialogues", files={"image": sample.image}, data={"policy": name, "memory": "marks"})
        assert refused.status_code == 422 and "known: masks" in refused.text


def test_alone_it_is_the_default_and_needs_no_policy(mask_model, held_out):
    pipeline, options = load_models([], [], LoadOptions(device="cpu"), [str(mask_model)])
    assert isinstance(pipeline, MaskPipeline) and not options.mask_models
    with servers.running(pipeline, options=options) as server, server.http() as http:
        assert http.get("/readyz").json()["policy"] == server.pool.mask_models[0]
        task = {"id": 1, "data": {"picture": data_url(held_out[0].image)}}
        asked = {"tasks": [task], "label_config": set_up(held_out[0].question, "it")}
        [predicted] = http.post("/label-studio/predict", json=asked).json()["results"]
        found = pipeline([held_out[0].image] * 2, [held_out[0].question, "it"])
        assert [region["score"] for region in predicted["result"]] == [each.score for one in found for each in one]
        assert Client(server.url).segment(held_out[0].image, held_out[0].question).undivided


def test_models_that_fail_are_found_out(pipeline):
    class Broken:
        name, kind, memory, protocol = "broken", "drawn", False, ""

        def answer(self, questions):
            raise RuntimeError("no memory left")

        def fits(self, image):
            pass

    pool = ModelPool(MaskPipeline(Broken(), segmenter=pipeline.segmenter), Limits())
    with pytest.raises(Exception, match="no memory left"):
        pool.segment(Image.new("RGB", (64, 64)), "it").result(20)
    assert "no memory left" in pool.failure
    pool.close(1)

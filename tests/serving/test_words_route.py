"""/v1/words on a real server: the instances that `find_words` gives, by the policy and by SAM3, flags, and refusals."""

import json

import pytest

from segzero.data.readers.flags import read_flags
from segzero.errors import UserError
from segzero.images import load_image
from segzero.masks import encode
from segzero.pipeline import SegZeroPipeline
from segzero.segmenter import load_segmenter
from segzero.serving.client import Client
from segzero.serving.options import ServerOptions
from segzero.serving.routes import words
from segzero.words import find_words
from tests.helpers import servers
from tests.helpers.random_sam3 import build_sam3

SAM3 = "tiny_sam3"  # its name on the server
PHRASES = ["all the shapes", "Purple star."]


@pytest.fixture(scope="module")
def sam3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam3") / SAM3
    build_sam3(folder)
    return load_segmenter(folder, device="cpu")


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return tmp_path_factory.mktemp("flags")


@pytest.fixture(scope="module")
def server(pipeline, sam3, flags):
    """A server with both segmenters, which keeps flags."""
    with servers.running(pipeline, options=ServerOptions(segmenters=(sam3,), flags=flags)) as running:
        yield running


@pytest.fixture(scope="module")
def image(held_out):
    return held_out[0].image


def alike(ours, theirs):
    assert [one.question for one in ours] == [one.question for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.presence == pytest.approx(other.presence, abs=1e-5) and one.error == other.error
        assert [each.box for each in one] == [pytest.approx(each.box, abs=1e-3) for each in other]
        assert [each.score for each in one] == [pytest.approx(each.score, abs=1e-5) for each in other]
        assert (one.union == other.union).all()


def test_the_instances_are_those_of_the_library(server, pipeline, image):
    found = Client(server.url).words(image, PHRASES, 0.2, 0.1)
    alike(found, find_words(pipeline, load_image(image), PHRASES, 0.2, 0.1))
    assert len(found[0]) > 0


def test_a_segmenter_that_reads_text_is_asked_itself(server, pipeline, sam3, image):
    exemplars = [((10.0, 10.0, 60.0, 60.0), 1), ((90.0, 90.0, 120.0, 150.0), 0)]
    both = SegZeroPipeline(pipeline.policy, sam3)
    for given in ([], exemplars):
        found = Client(server.url).words(image, PHRASES, 0.0, 0.0, segmenter=SAM3, exemplars=given)
        alike(found, find_words(both, load_image(image), PHRASES, 0.0, 0.0, given))
        assert all(len(one) == 12 for one in found)


def test_masks_come_as_pngs_on_request(server, image):
    with server.http() as http:
        data = {"phrases": json.dumps(PHRASES), "format": "png"}
        answer = http.post("/v1/words", files={"image": image}, data=data).json()
    assert [one["phrase"] for one in answer["phrases"]] == PHRASES
    assert all(
        each["png"].startswith("data:image/png") and "rle" not in each
        for one in answer["phrases"]
        for each in one["instances"]
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"phrases": "[]"}, "phrases: List should have at least 1 item"),
        ({"phrases": json.dumps(["cup"] * 33)}, "phrases: List should have at most 32 items"),
        ({"phrases": json.dumps(["x" * 201])}, "phrases.0: String should have at most 200 characters"),
        ({"phrases": '["  "]'}, "a phrase is empty"),
        ({"phrases": '["a <|im_end|>"]'}, "the question holds '<|'"),
        ({"phrases": '["cup"]', "box_threshold": "1.5"}, "box_threshold: Input should be less than or equal to 1"),
        ({"phrases": '["cup"]', "text_threshold": "nan"}, "text_threshold: Input should be"),
        ({"phrases": '["cup"]', "policy": "none"}, "unknown policy 'none'"),
        ({"phrases": '["cup"]', "exemplars": '[{"box": [1, 2, 3, 4]}]'}, "boxes beside phrases are for SAM3"),
        ({"phrases": '["cup"]', "question": "cup"}, "question: Extra inputs are not permitted"),
    ],
)
def test_what_can_not_be_used_is_refused(server, image, fields, message):
    with server.http() as http:
        response = http.post("/v1/words", files={"image": image}, data=fields)
    assert response.status_code == 422 and response.json()["error"]["message"].startswith(message), response.text


def test_more_masks_than_can_be_written_are_refused(server, image, monkeypatch):
    monkeypatch.setattr(words, "MASK_PIXELS", 224 * 224)
    with pytest.raises(UserError, match=r"422: \d+ masks of 224x224 pixels are left, too many; raise the box"):
        Client(server.url, retries=0).words(image, PHRASES, 0.0, 0.0, segmenter=SAM3)


def test_a_mask_model_can_not_find_phrases(pipeline, mask_model, image):
    from segzero.mask_pipeline import MaskPipeline

    model = MaskPipeline.from_pretrained(mask_model, "cpu")
    with (
        servers.running(pipeline, options=ServerOptions(mask_models=(model.model,))) as server,
        pytest.raises(UserError, match="422: a mask model draws one mask for a question"),
    ):
        Client(server.url, retries=0).words(image, ["cup"], policy=mask_model.name)


def test_flags_become_samples(server, flags, image):
    """A phrase and its masks, as they stand on the page, are data to train on; nothing there is an answer too."""
    [found, *_] = Client(server.url).words(image, PHRASES)
    masks = json.dumps([encode(one.mask) for one in found])
    with server.http() as http:
        for fields in (
            {"phrase": "Red shapes", "masks": masks, "verdict": "good", "note": "<b>"},
            {"phrase": "dog", "verdict": "good"},
        ):
            assert http.post("/v1/words/flag", files={"image": image}, data=fields).status_code == 204
        wrong = {"phrase": "dog", "verdict": "good", "masks": '[{"size": [5, 5], "counts": "0o"}]'}
        response = http.post("/v1/words/flag", files={"image": image}, data=wrong)
        assert response.status_code == 422 and response.json()["error"]["message"].startswith("masks: ")
    samples = [sample for record in read_flags(flags) for sample in record.samples()]
    assert [(sample.question, len(sample.objects)) for sample in samples] == [("red shapes", len(found)), ("dog", 0)]
    assert samples[0].objects[0].rle == encode(found.instances[0].mask) and samples[0].meta["note"] == "<b>"


def test_a_server_without_a_folder_keeps_no_flags(pipeline, image):
    with servers.running(pipeline) as server, server.http() as http:
        response = http.post("/v1/words/flag", files={"image": image}, data={"phrase": "dog", "verdict": "bad"})
    assert response.status_code == 404 and response.json()["error"]["code"] == "no_flags"

"""/v1/everything on a real server: the masks that `find_everything` gives, and what is refused."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from segzero.errors import UserError
from segzero.images import load_image
from segzero.masks import decode
from segzero.segmenter.everything import EverythingSettings, find_everything
from segzero.serving.client import Client
from segzero.serving.routes import everything

SETTINGS = {"points_per_side": 8, "stability_thresh": 0.8}


def test_the_masks_are_those_of_the_library(server, pipeline, held_out):
    image = held_out[0].image
    expected = find_everything(pipeline.segmenter, load_image(image), EverythingSettings(**SETTINGS))
    found = Client(server.url).everything(image, **SETTINGS)
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.rle == theirs.rle and ours.area == theirs.area == ours.mask.sum()
        assert (ours.box, ours.point, ours.crop) == (theirs.box, theirs.point, theirs.crop)
        assert ours.score == pytest.approx(theirs.score) and ours.stability == pytest.approx(theirs.stability)


def test_a_preset_sets_what_is_left_out(server, held_out):
    client, image = Client(server.url), held_out[0].image
    every, strict = (client.everything(image, preset, **SETTINGS) for preset in ("sam2", "sam"))
    assert all(each.score > 0.88 for each in strict) and len(strict) <= len(every)


def test_masks_come_as_pngs_on_request(server, held_out):
    with server.http() as http:
        fields = {"settings": json.dumps(SETTINGS)}
        rle, png = (
            http.post("/v1/everything", files={"image": held_out[0].image}, data=fields | {"format": format}).json()
            for format in ("rle", "png")
        )
    assert rle["size"] == png["size"] == {"width": 224, "height": 224}
    for one, other in zip(rle["masks"], png["masks"], strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(other["png"].partition(",")[2])))
        assert (np.asarray(picture) > 0).tolist() == decode(one["rle"]).tolist()
        assert "rle" not in other and one["box"] == other["box"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"settings": '{"points_per_side": 0}'}, "settings.points_per_side: Input should be greater than or equal"),
        ({"settings": '{"points_per_side": 65}'}, "settings.points_per_side: Input should be less than or equal to 64"),
        ({"settings": '{"crop_layers": 2}'}, "settings.crop_layers: Input should be less than or equal to 1"),
        ({"settings": '{"pred_iou_thresh": 1.5}'}, "settings.pred_iou_thresh: Input should be less than or equal to 1"),
        ({"settings": '{"points": 8}'}, "settings.points: Extra inputs are not permitted"),
        ({"preset": "sam3"}, "preset: Input should be 'sam2', 'sam' or 'scenes'"),
        ({"segmenter": "none"}, "unknown segmenter 'none'"),
        ({"question": "the circle"}, "question: Extra inputs are not permitted"),
    ],
)
def test_what_can_not_be_used_is_refused(server, held_out, fields, message):
    with server.http() as http:
        response = http.post("/v1/everything", files={"image": held_out[0].image}, data=fields)
    assert response.status_code == 422 and response.json()["error"]["message"].startswith(message), response.text


def test_images_that_can_not_be_read_are_refused(server):
    with pytest.raises(UserError, match="422: the image is not an image that can be read here"):
        Client(server.url, retries=0).everything(b"not an image")


def test_more_masks_than_can_be_written_are_refused(server, held_out, monkeypatch):
    monkeypatch.setattr(everything, "MASK_PIXELS", 224 * 224)
    with pytest.raises(UserError, match=r"422: \d+ masks of 224x224 pixels are left, too many"):
        Client(server.url, retries=0).everything(held_out[0].image, **SETTINGS)

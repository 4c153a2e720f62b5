"""The annotation routes: taking, drawing, saving, conflicts between annotators, and what is refused."""

import numpy as np
import pytest

from segzero.data.annotation import open_project
from segzero.masks import decode, encode, mask_iou
from segzero.serving.limits import Tokens
from segzero.serving.options import ServerOptions
from segzero.tiny.scenes import make_scene
from tests.helpers import servers

SCENES = [make_scene(np.random.default_rng(seed)) for seed in (2, 4, 5)]


@pytest.fixture
def project(tmp_path):
    (tmp_path / "images").mkdir()
    for number, scene in enumerate(SCENES):
        (tmp_path / "images" / f"{number}.png").write_bytes(scene.png())
    return open_project(tmp_path / "project", tmp_path / "images")[0]


@pytest.fixture
def annotators(pipeline, project):
    """Clients of anna, ben, and of a token without a name."""
    tokens = Tokens(["anna secret-1", "ben secret-2", "secret-3"])
    with servers.running(pipeline, tokens=tokens, options=ServerOptions(annotation=project)) as server:
        yield [server.http(f"secret-{number}") for number in (1, 2, 3)]


def take(client, after=""):
    response = client.post("/v1/annotation/next", json={"after": after})
    assert response.status_code == 200, response.text
    return response.json()["image"]


def shape_of(scene, label="shape"):
    return {"label": label, "rle": encode(scene.shapes[0].mask), "how": "click", "score": 0.9}


def test_a_click_gives_three_masks_which_are_saved_under_a_name(annotators, project):
    anna, ben, nameless = annotators
    image = take(anna)
    assert anna.get(f"/v1/annotation/images/{image['id']}/file").content == SCENES[0].png()
    large = max(SCENES[0].shapes, key=lambda shape: shape.radius)
    prompt = {"points": [list(large.point)]}
    masks = anna.post(f"/v1/annotation/images/{image['id']}/candidates", json=prompt).json()["masks"]
    assert len(masks) == 3 and masks[0]["score"] >= masks[1]["score"]
    assert max(mask_iou(decode(each["rle"]), large.mask) for each in masks) > 0.8
    body = {"revision": 0, "done": True, "instances": [{"label": "It", "rle": masks[0]["rle"], "how": "click"}]}
    saved = anna.post(f"/v1/annotation/images/{image['id']}/save", json=body).json()
    assert (saved["revision"], saved["instances"][0]["label"], saved["instances"][0]["who"]) == (1, "it", "anna")
    assert project.read(image["id"]).instances[0].who == "anna"
    progress = ben.get("/v1/annotation").json()
    assert (progress["annotator"], progress["done"], progress["images"], progress["labels"]) == ("ben", 1, 3, {"it": 1})
    assert nameless.get("/v1/annotation").json()["annotator"].startswith("token ")


def test_an_earlier_mask_takes_part(annotators):
    anna, *_ = annotators
    image = take(anna)
    prompt = {"points": [[5, 5]], "labels": [0], "mask": encode(SCENES[0].shapes[0].mask)}
    assert len(anna.post(f"/v1/annotation/images/{image['id']}/candidates", json=prompt).json()["masks"]) == 3
    wrong = prompt | {"mask": {"size": [4, 4], "counts": "`0"}}
    refused = anna.post(f"/v1/annotation/images/{image['id']}/candidates", json=wrong)
    assert refused.status_code == 422 and "the earlier mask" in refused.json()["error"]["message"]


def test_annotators_get_images_of_their_own_and_none_when_all_are_taken(annotators):
    images = [take(client) for client in annotators]
    assert len({image["id"] for image in images}) == 3
    anna, ben, _ = annotators
    refused = ben.get(f"/v1/annotation/images/{images[0]['id']}")
    assert refused.status_code == 409 and refused.json()["error"]["code"] == "lent"
    assert refused.json()["error"]["message"].startswith("this image is with anna, until")
    done = {"revision": 0, "done": True, "instances": []}
    assert ben.post(f"/v1/annotation/images/{images[1]['id']}/save", json=done).status_code == 200
    assert take(ben) is None
    assert anna.post(f"/v1/annotation/images/{images[0]['id']}/leave", json={}).status_code == 204
    assert take(ben)["id"] == images[0]["id"]


def test_a_save_over_another_is_409_and_keeps_the_first(annotators):
    anna, ben, _ = annotators
    image = take(anna)
    save = f"/v1/annotation/images/{image['id']}/save"
    body = {"revision": 0, "instances": [shape_of(SCENES[0], "annas")]}
    assert anna.post(save, json=body).status_code == 200
    anna.post(f"/v1/annotation/images/{image['id']}/leave", json={})
    refused = ben.post(save, json={"revision": 0, "instances": [shape_of(SCENES[0], "bens")]})
    assert refused.status_code == 409 and refused.json()["error"]["code"] == "conflict"
    kept = ben.get(f"/v1/annotation/images/{image['id']}").json()
    assert [each["label"] for each in kept["instances"]] == ["annas"]


def test_images_are_named_by_their_id_alone(annotators):
    anna, *_ = annotators
    for id in ("0.png", "..%2F..%2Fproject.json", "0" * 16):
        for response in (
            anna.get(f"/v1/annotation/images/{id}"),
            anna.get(f"/v1/annotation/images/{id}/file"),
            anna.post(f"/v1/annotation/images/{id}/save", json={"revision": 0, "instances": []}),
        ):
            assert response.status_code == 404, (id, response.text)


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ({"label": "a", "how": "click", "rle": {"size": [9, 9], "counts": [81]}}, "9x9 pixels for an image of 224x224"),
        ({"label": "a", "how": "click", "rle": {}}, "malformed RLE"),
        ({"label": "a", "how": "magic", "rle": encode(SCENES[0].shapes[0].mask)}, "unknown way to make a mask"),
        ({"label": "a" * 201, "how": "click", "rle": {}}, "instances.0.label"),
    ],
    ids=["size", "rle", "how", "label"],
)
def test_malformed_instances_are_422_and_change_nothing(annotators, project, instance, message):
    anna, *_ = annotators
    image = take(anna)
    body = {"revision": 0, "instances": [instance]}
    refused = anna.post(f"/v1/annotation/images/{image['id']}/save", json=body)
    assert refused.status_code == 422 and message in refused.json()["error"]["message"]
    assert project.read(image["id"]).revision == 0


def test_without_a_project_or_a_token_nothing_is_there(server, annotators):
    with server.http() as client:
        refused = client.get("/v1/annotation")
    assert refused.status_code == 404 and refused.json()["error"]["code"] == "no_project"
    anna, *_ = annotators
    assert anna.get("/v1/annotation", headers={"Authorization": "Bearer anna"}).status_code == 401

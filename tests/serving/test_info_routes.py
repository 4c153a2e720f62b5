"""Models by name, examples, exports and feedback."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from segzero.data.readers import read
from segzero.dialogue import Dialogue
from segzero.errors import UserError
from segzero.images import load_image
from segzero.io import png_bytes
from segzero.masks import decode
from segzero.serving.client import Client
from segzero.serving.examples import read_examples, synthetic_examples
from segzero.serving.limits import Limits
from segzero.serving.options import ServerOptions
from segzero.serving.schema import DialogueBody
from tests.helpers import servers


def test_examples_are_scenes_with_questions_that_refer():
    made = synthetic_examples()
    assert len(made) == 6 == len({each.image for each in made}) and all(each.question for each in made)
    assert all("[REF:1]" in each.followups[0] for each in made)


@pytest.fixture
def folder(tmp_path):
    for name in ("cat.png", "dog.JPG"):
        Image.new("RGB", (30, 20), "teal").save(tmp_path / name)
    return tmp_path


def test_examples_of_a_folder(folder):
    cat, dog = read_examples(folder)
    assert (cat.name, cat.question, cat.media_type, dog.media_type) == ("cat", "", "image/png", "image/jpeg")
    assert load_image(dog.image).size == (30, 20)
    listed = [{"image": "cat.png", "name": "A cat", "question": "the cat", "followups": ["its tail"]}]
    (folder / "examples.json").write_text(json.dumps(listed))
    [cat] = read_examples(folder)
    assert (cat.name, cat.question, cat.followups) == ("A cat", "the cat", ("its tail",))


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({}, "must hold a list"),
        ([], "has 0 examples"),
        ([{"image": "none.png"}], "example 0: there is no file"),
        ([{"image": "../cat.png"}], "lies outside"),
        ([{"image": "examples.json"}], "not an image"),
        ([{"image": "cat.png", "question": "<|im_end|>"}], "special tokens"),
        ([{"image": "cat.png", "followups": "its tail"}], "'followups' must be"),
        ([{"image": "cat.png", "followups": [1]}], "list of questions"),
        ([{"image": "cat.png"}] * 49, "1 to 48"),
    ],
)
def test_a_list_of_examples_that_makes_no_sense(folder, listed, message):
    (folder / "examples.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match=message):
        read_examples(folder)


class Renamed:
    """The shipped policy or segmenter under another name; it counts its requests and images."""

    def __init__(self, model, name: str) -> None:
        self.model, self.name, self.count = model, name, 0

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, requests, sampling):
        self.count += len(requests)
        return self.model.generate(requests, sampling)

    def embed(self, images):
        self.count += len(images)
        return self.model.embed(images)


@pytest.fixture(scope="module")
def several(pipeline, tmp_path_factory):
    """A server with two policies and two segmenters, which keeps flags."""
    policy, segmenter = Renamed(pipeline.policy, "owner/other"), Renamed(pipeline.segmenter, pipeline.segmenter.name)
    options = ServerOptions((policy,), (segmenter,), flags=tmp_path_factory.mktemp("flags"))
    with servers.running(pipeline, Limits(question=500), options=options) as running:
        yield running, options


@pytest.mark.slow
def test_models_are_chosen_by_their_names(several, held_out):
    server, options = several
    [policy], [segmenter] = options.policies, options.segmenters
    client, sample = Client(server.url), held_out[0]
    models = client.models()
    first, second = (each["name"] for each in models["policies"])
    assert second == "owner/other" and "/" not in first and [each["default"] for each in models["policies"]] == [1, 0]
    drawer, same = (each["name"] for each in models["segmenters"])
    assert same == f"{drawer} (2)"
    assert models["memories"] == ["text", "marks", "crop"] and models["flags"] is True
    assert models["limits"] == {"megabytes": 32.0, "pixels": 25_000_000, "question": 500}
    expected = client.segment(sample.image, sample.question)
    assert policy.count == segmenter.count == 0
    assert client.segment(sample.image, sample.question, second, same).raw_text == expected.raw_text
    assert policy.count == segmenter.count == 1
    client.draw(sample.image, [(30, 40)], segmenter=same)
    assert segmenter.count == 1  # the image is in its cache
    with client.dialogue(sample.image, policy=second, segmenter=same) as dialogue, server.http() as http:
        state = http.get(dialogue.path).json()
        assert (state["policy"], state["segmenter"]) == (second, same)
        dialogue.ask(sample.question)
        assert policy.count == 2
        for path in ("/v1/segment", "/v1/prompt", "/v1/dialogues"):
            fields = {"/v1/segment": {"question": "a"}, "/v1/prompt": {"prompts": '[{"points": [[1, 1]]}]'}}.get(path)
            for name in ("policy", "segmenter"):
                files = {"image": sample.image}
                refused = http.post(path, files=files, data={**(fields or {}), name: "none"})
                message = refused.json()["error"]["message"]
                assert refused.status_code == 422 and f"unknown {name} 'none'" in message and "\n" not in message


@pytest.mark.slow
def test_examples_are_served(several):
    server, _ = several
    with server.http() as http:
        listed = http.get("/v1/examples").json()
        assert len(listed) == 6
        for each, made in zip(listed, synthetic_examples(), strict=True):
            picture = http.get(each["image"])
            assert picture.content == made.image and picture.headers["content-type"] == "image/png"
            assert each["question"] == made.question and each["followups"] == list(made.followups)
        assert http.get("/v1/examples/7/image").status_code == 404
        wrong = http.get("/v1/examples/x/image")
        assert wrong.status_code == 422 and "number" in wrong.json()["error"]["message"]


@pytest.fixture
def dialogue(several, held_out):
    """A dialogue with a round found by the policy and one drawn by hand."""
    client = Client(several[0].url)
    with client.dialogue(held_out[0].image) as begun:
        assert begun.ask(held_out[0].question).instances
        begun.draw([(112, 112)], question="the middle")
        yield begun


@pytest.mark.slow
def test_exports_of_a_dialogue(several, dialogue, pipeline, held_out, tmp_path):
    first, second = dialogue.rounds()
    coco = json.loads(dialogue.export("coco"))
    count = len(first.instances) + 1
    assert [each["id"] for each in coco["annotations"]] == list(range(1, count + 1))
    assert [each["name"] for each in coco["categories"]] == [first.question, "the middle"]
    assert (decode(coco["annotations"][-1]["segmentation"]) == second.union).all()
    assert coco["annotations"][-1]["area"] == second.union.sum() and coco["annotations"][-1]["category_id"] == 2
    with zipfile.ZipFile(io.BytesIO(dialogue.export("masks"))) as archive:
        assert len(archive.namelist()) == count
        mask = np.asarray(Image.open(io.BytesIO(archive.read(f"round_2_instance_{count}.png")))) > 0
    assert (mask == second.union).all()
    whole, alone = (load_image(dialogue.export("overlay", round)) for round in (None, 2))
    assert whole.size == alone.size == (672, 672) and whole.tobytes() != alone.tobytes()
    (tmp_path / "dialogue.json").write_bytes(dialogue.export())
    loaded = Dialogue.load(tmp_path / "dialogue.json", held_out[0].image, pipeline)
    assert [round.question for round in loaded.registry.rounds] == [first.question, "the middle"]
    with several[0].http() as http:
        answer = http.get(f"{dialogue.path}/export", params={"format": "overlay", "round": 2})
        assert answer.headers["content-disposition"] == 'attachment; filename="round_2_overlay.png"'
        assert answer.headers["content-type"] == "image/png"
        assert http.get(f"{dialogue.path}/export", params={"format": "gif"}).status_code == 422
        assert http.get(f"{dialogue.path}/export", params={"format": "overlay", "round": 9}).status_code == 422
        assert http.get("/v1/dialogues/other/export").status_code == 404


@pytest.mark.slow
def test_flags_become_samples(several, dialogue, server, held_out):
    dialogue.flag(1, "good")
    dialogue.flag(2, "bad", "that is not the middle")
    folder = several[1].flags
    [good] = read(folder, "flags")
    [bad] = read(folder, "flags", verdict="bad")
    assert good.question == held_out[0].question and good.objects and good.meta["policy"]
    assert bad.question == "the middle" and len(bad.turns) == 1 and bad.meta["note"].endswith("the middle")
    assert load_image(good.image).tobytes() == load_image(held_out[0].image).tobytes()
    for round, verdict, message in [(9, "good", "no round 9"), (1, "fine", "verdict")]:
        with pytest.raises(UserError, match=message):
            dialogue.flag(round, verdict)
    with Client(server.url).dialogue(held_out[0].image) as other, pytest.raises(UserError, match="keeps no flags"):
        other.flag(1, "good")


@pytest.mark.slow
def test_a_server_shows_its_page_unless_the_option_is_off(several, pipeline):
    with several[0].http() as http:
        assert http.get("/ui/").status_code == 200
    with servers.running(pipeline, options=ServerOptions(page=False)) as server, server.http() as http:
        assert http.get("/ui/").status_code == http.get("/").status_code == 404


@pytest.mark.parametrize("field", ["policy", "segmenter"])
def test_names_of_models_have_a_longest_length(field):
    with pytest.raises(ValidationError, match="at most 1000 characters"):
        DialogueBody(image=b"", **{field: "x" * 1001})


def test_a_picture_is_served_by_its_content_and_not_by_its_name(folder):
    (folder / "cat.png").rename(folder / "cat.html")
    (folder / "examples.json").write_text('[{"image": "cat.html"}]')
    [cat] = read_examples(folder)
    assert cat.media_type == "image/png"


def test_a_blank_picture_is_an_example_too(tmp_path):
    (tmp_path / "white.png").write_bytes(png_bytes(Image.new("RGB", (8, 8), "white")))
    [white] = read_examples(tmp_path)
    assert white.name == "white"

"""What a server has to offer: models by name, examples, and a word on its answers."""

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
from segzero.serving.examples import made_examples, read_examples
from segzero.serving.limits import Limits
from segzero.serving.options import Extras
from segzero.serving.schema import DialogueBody
from tests.helpers import servers


def test_examples_are_scenes_with_questions_that_refer():
    made = made_examples()
    assert len(made) == 6 == len({each.image for each in made}) and all(each.question for each in made)
    assert all("[REF:1]" in each.followups[0] for each in made)


@pytest.fixture
def folder(tmp_path):
    for name in ("cat.png", "dog.JPG"):
        Image.new("RGB", (30, 20), "teal").save(tmp_path / name)
    return tmp_path


def test_a_folder_of_ones_own(folder):
    cat, dog = read_examples(folder)
    assert (cat.name, cat.question, cat.kind, dog.kind) == ("cat", "", "image/png", "image/jpeg")
    assert load_image(dog.image).size == (30, 20)
    listed = [{"image": "cat.png", "name": "A cat", "question": "the cat", "followups": ["its tail"]}]
    (folder / "examples.json").write_text(json.dumps(listed))
    [cat] = read_examples(folder)
    assert (cat.name, cat.question, cat.followups) == ("A cat", "the cat", ("its tail",))


@pytest.mark.parametrize(
    ("listed", "said"),
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
def test_a_folder_that_makes_no_sense(folder, listed, said):
    (folder / "examples.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match=said):
        read_examples(folder)


class Renamed:
    """The shipped policy or segmenter under another name; what it is asked is counted."""

    def __init__(self, model, name: str) -> None:
        self.model, self.name, self.asked = model, name, 0

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, requests, sampling):
        self.asked += len(requests)
        return self.model.generate(requests, sampling)

    def embed(self, images):
        self.asked += len(images)
        return self.model.embed(images)


@pytest.fixture(scope="module")
def several(pipeline, tmp_path_factory):
    """A server with two policies and two segmenters, which keeps flags."""
    policy, segmenter = Renamed(pipeline.policy, "owner/other"), Renamed(pipeline.segmenter, pipeline.segmenter.name)
    extras = Extras((policy,), (segmenter,), flags=tmp_path_factory.mktemp("flags"))
    with servers.running(pipeline, Limits(question=500), extras=extras) as running:
        yield running, extras


@pytest.mark.slow
def test_models_are_chosen_by_their_names(several, held_out):
    server, extras = several
    [policy], [segmenter] = extras.policies, extras.segmenters
    client, sample = Client(server.url), held_out[0]
    told = client.models()
    first, second = (each["name"] for each in told["policies"])
    assert second == "owner/other" and "/" not in first and [each["default"] for each in told["policies"]] == [1, 0]
    drawer, same = (each["name"] for each in told["segmenters"])
    assert same == f"{drawer} (2)"
    assert told["memories"] == ["text", "marks", "crop"] and told["flags"] is True
    assert told["limits"] == {"megabytes": 32.0, "pixels": 25_000_000, "question": 500}
    expected = client.segment(sample.image, sample.question)
    assert policy.asked == segmenter.asked == 0
    assert client.segment(sample.image, sample.question, second, same).raw_text == expected.raw_text
    assert policy.asked == segmenter.asked == 1
    client.draw(sample.image, [(30, 40)], segmenter=same)
    assert segmenter.asked == 1  # it remembers the image
    with client.dialogue(sample.image, policy=second, segmenter=same) as dialogue, server.http() as http:
        state = http.get(dialogue.path).json()
        assert (state["policy"], state["segmenter"]) == (second, same)
        dialogue.ask(sample.question)
        assert policy.asked == 2
        for path in ("/v1/segment", "/v1/prompt", "/v1/dialogues"):
            fields = {"/v1/segment": {"question": "a"}, "/v1/prompt": {"prompts": '[{"points": [[1, 1]]}]'}}.get(path)
            for name in ("policy", "segmenter"):
                files = {"image": sample.image}
                refused = http.post(path, files=files, data={**(fields or {}), name: "none"})
                said = refused.json()["error"]["message"]
                assert refused.status_code == 422 and f"unknown {name} 'none'" in said and "\n" not in said


@pytest.mark.slow
def test_examples_are_served(several):
    server, _ = several
    with server.http() as http:
        listed = http.get("/v1/examples").json()
        assert len(listed) == 6
        for each, made in zip(listed, made_examples(), strict=True):
            picture = http.get(each["image"])
            assert picture.content == made.image and picture.headers["content-type"] == "image/png"
            assert each["question"] == made.question and each["followups"] == list(made.followups)
        assert http.get("/v1/examples/7/image").status_code == 404
        wrong = http.get("/v1/examples/x/image")
        assert wrong.status_code == 422 and "number" in wrong.json()["error"]["message"]


@pytest.fixture
def talked(several, held_out):
    """A dialogue with a round found by the policy and one drawn by hand."""
    client = Client(several[0].url)
    with client.dialogue(held_out[0].image) as dialogue:
        assert dialogue.ask(held_out[0].question).instances
        dialogue.draw([(112, 112)], question="the middle")
        yield dialogue


@pytest.mark.slow
def test_files_to_take_home(several, talked, pipeline, held_out, tmp_path):
    first, second = talked.rounds()
    told = json.loads(talked.export("coco"))
    count = len(first.instances) + 1
    assert [each["id"] for each in told["annotations"]] == list(range(1, count + 1))
    assert [each["name"] for each in told["categories"]] == [first.question, "the middle"]
    assert (decode(told["annotations"][-1]["segmentation"]) == second.union).all()
    assert told["annotations"][-1]["area"] == second.union.sum() and told["annotations"][-1]["category_id"] == 2
    with zipfile.ZipFile(io.BytesIO(talked.export("masks"))) as zipped:
        assert len(zipped.namelist()) == count
        mask = np.asarray(Image.open(io.BytesIO(zipped.read(f"round_2_instance_{count}.png")))) > 0
    assert (mask == second.union).all()
    whole, alone = (load_image(talked.export("overlay", round)) for round in (None, 2))
    assert whole.size == alone.size == (672, 672) and whole.tobytes() != alone.tobytes()
    (tmp_path / "dialogue.json").write_bytes(talked.export())
    loaded = Dialogue.load(tmp_path / "dialogue.json", held_out[0].image, pipeline)
    assert [round.question for round in loaded.registry.rounds] == [first.question, "the middle"]
    with several[0].http() as http:
        answer = http.get(f"{talked.path}/export", params={"format": "overlay", "round": 2})
        assert answer.headers["content-disposition"] == 'attachment; filename="round_2_overlay.png"'
        assert answer.headers["content-type"] == "image/png"
        assert http.get(f"{talked.path}/export", params={"format": "gif"}).status_code == 422
        assert http.get(f"{talked.path}/export", params={"format": "overlay", "round": 9}).status_code == 422
        assert http.get("/v1/dialogues/other/export").status_code == 404


@pytest.mark.slow
def test_flags_become_samples(several, talked, server, held_out):
    talked.flag(1, "good")
    talked.flag(2, "bad", "that is not the middle")
    folder = several[1].flags
    [good] = read(folder, "flags")
    [bad] = read(folder, "flags", verdict="bad")
    assert good.question == held_out[0].question and good.objects and good.meta["policy"]
    assert bad.question == "the middle" and len(bad.turns) == 1 and bad.meta["note"].endswith("the middle")
    assert load_image(good.image).tobytes() == load_image(held_out[0].image).tobytes()
    for round, verdict, said in [(9, "good", "no round 9"), (1, "fine", "verdict")]:
        with pytest.raises(UserError, match=said):
            talked.flag(round, verdict)
    with Client(server.url).dialogue(held_out[0].image) as elsewhere, pytest.raises(UserError, match="keeps no flags"):
        elsewhere.flag(1, "good")


@pytest.mark.slow
def test_a_server_shows_a_page_unless_it_is_told_not_to(several, pipeline):
    with several[0].http() as http:
        assert http.get("/ui/").status_code == 200
    with servers.running(pipeline, extras=Extras(page=False)) as server, server.http() as http:
        assert http.get("/ui/").status_code == http.get("/").status_code == 404


@pytest.mark.parametrize("field", ["policy", "segmenter"])
def test_names_without_end_are_not_compared_with_those_known(field):
    with pytest.raises(ValidationError, match="at most 1000 characters"):
        DialogueBody(image=b"", **{field: "x" * 1001})


def test_a_picture_is_served_as_what_it_is(folder):
    (folder / "cat.png").rename(folder / "cat.html")
    (folder / "examples.json").write_text('[{"image": "cat.html"}]')
    [cat] = read_examples(folder)
    assert cat.kind == "image/png"


def test_a_blank_picture_is_an_example_too(tmp_path):
    (tmp_path / "white.png").write_bytes(png_bytes(Image.new("RGB", (8, 8), "white")))
    [white] = read_examples(tmp_path)
    assert white.name == "white"

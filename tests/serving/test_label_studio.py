"""The ML backend for Label Studio: requests as Label Studio writes them, answers as it reads them."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from segzero.data.readers import read
from segzero.errors import UserError
from segzero.masks import decode, mask_iou
from segzero.result import InstanceMask
from segzero.serving.label_studio import LabelStudioFiles, read_config, read_context, regions_of
from segzero.serving.limits import Limits, Tokens
from tests.helpers import servers

SIZE = (60, 40)
BRUSH = """<View>
  <Image name="image" value="$picture" zoom="true"/>
  <BrushLabels name="mask" toName="image">{labels}</BrushLabels>
  <KeyPointLabels name="click" toName="image" smart="true">{labels}</KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true">{labels}</RectangleLabels>
  <TextArea name="prompt" toName="image" smart="true"/>
</View>"""


def labels(*names: str) -> str:
    return "".join(f'<Label value="{name}"/>' for name in names)


def set_up(*names: str, only: str = "") -> str:
    text = BRUSH.format(labels=labels(*names))
    if not only:
        return text
    return "\n".join(line for line in text.splitlines() if only in line or "View" in line or "<Image" in line)


def click(x: float, y: float, kind: str = "keypointlabels", label: str = "cat", size=SIZE, **more) -> dict:
    """A region of a smart tool, in per cent of the image's sides."""
    value = {"x": x, "y": y, kind: [label]} | ({"width": 0.3} if kind == "keypointlabels" else more)
    extra = more if kind == "keypointlabels" else {}
    return {"id": "a", "type": kind, "original_width": size[0], "original_height": size[1], "value": value} | extra


def test_answers_use_the_first_kind_of_tag_that_a_set_up_has():
    config = read_config(set_up("cat", "dog"))
    assert config.variable == "picture" and config.labels == ("cat", "dog")
    assert config.control_for("dog").name == "mask"
    assert read_config(set_up("cat", only="Rectangle")).control_for("cat").type == "rectanglelabels"
    assert read_config(set_up("cat", only="KeyPoint")).control_for("cat").name == "click"
    with pytest.raises(UserError, match="no label 'cow'"):
        config.control_for("cow")


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<View>", "not XML"),
        ("<View/>", "none of BrushLabels"),
        (set_up(), "no labels for brushlabels"),
        ('<View><Text name="t"/><BrushLabels name="a" toName="t"/></View>', "none of BrushLabels"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>', "plain tags"),
        ("<View>" + " " * (1 << 20) + "</View>", "too long"),
        (
            '<View><Image name="i"/>' + '<BrushLabels toName="i">' * 101 + "</BrushLabels>" * 101 + "</View>",
            "at most 100",
        ),
    ],
)
def test_set_ups_that_cannot_be_used(xml, message):
    with pytest.raises(UserError, match=message):
        read_config(xml)


def test_clicks_become_prompts():
    config = read_config(set_up("cat", "dog"))
    regions = [
        click(50, 25, label="dog", is_positive=True),
        click(10, 50, label="dog", is_positive=0),
        click(20, 30, "rectanglelabels", "dog", width=50, height=60, rotation=0),
    ]
    clicks = read_context({"result": regions}, config, SIZE)
    assert clicks.label == "dog" and clicks.prompt.points == ((30, 10), (6, 20)) and clicks.prompt.labels == (1, 0)
    assert clicks.prompt.box == (12, 12, 42, 36)
    text = {"type": "textarea", "value": {"text": ["the", "mug"]}}
    assert read_context({"result": [text]}, config, SIZE).text == "the mug"
    assert read_context({"result": [text]}, config, SIZE).label == "cat"
    assert read_context({"result": []}, config, SIZE) is None
    assert read_context({"result": [click(1, 1, is_positive=False)]}, config, SIZE) is None


@pytest.mark.parametrize(
    "region",
    [
        3,
        {"type": "keypointlabels"},
        {"type": "keypointlabels", "value": {"x": "a", "y": 1, "keypointlabels": ["cat"]}},
        {"type": "keypointlabels", "value": {"x": 1, "y": 1, "keypointlabels": []}},
        {"type": "keypointlabels", "value": {"x": 1, "y": 1, "keypointlabels": [7]}},
        {"type": "rectanglelabels", "value": {"x": 1, "y": 1, "rectanglelabels": ["cat"]}},
        {"type": "textarea", "value": {"text": 7}},
        {"type": "textarea", "value": {"text": [7]}},
    ],
)
def test_contexts_that_make_no_sense(region):
    with pytest.raises(UserError, match="none that Label Studio writes"):
        read_context({"result": [region]}, read_config(set_up("cat")), SIZE)


@pytest.mark.parametrize("result", [5, {"type": "textarea"}, "text", [click(50, 50)] * 65])
def test_contexts_without_a_short_list_of_regions(result):
    with pytest.raises(UserError, match="no list, or one of more than 64"):
        read_context({"result": result}, read_config(set_up("cat")), SIZE)


def test_regions_are_read_back_by_the_reader(tmp_path):
    """A prediction that a person accepts, exported by Label Studio, is the same mask."""
    from PIL import Image

    rng = np.random.default_rng(3)
    masks = [np.zeros(SIZE[::-1], bool), rng.random(SIZE[::-1]) > 0.5, np.ones(SIZE[::-1], bool)]
    masks[0][10:30, 5:50] = True
    found = [InstanceMask(mask, (5.0, 10.0, 50.0, 30.0), ((20.0, 20.0),), 0.9) for mask in masks]
    Image.new("RGB", SIZE).save(tmp_path / "cat.png")
    for only, names in (("", ["cat"]), ("Rectangle", ["cat"])):
        result = regions_of(found, "cat", read_config(set_up(*names, only=only)), SIZE)
        task = {"id": 1, "data": {"image": "/data/upload/1/cat.png"}, "annotations": [{"result": result}]}
        (tmp_path / "export.json").write_text(json.dumps([task]))
        [sample] = read(tmp_path / "export.json", "label_studio")
        assert sample.question == "cat" and len(sample.objects) == 3
        for true, mask in zip(sample.objects, masks, strict=True):
            if only:
                assert true.box == pytest.approx((5, 10, 50, 30))
            else:
                assert (decode(true.rle) == mask).all()
    [points] = [regions_of(found[:1], "cat", read_config(set_up("cat", only="KeyPoint")), SIZE)]
    assert points[0]["value"] == {"x": pytest.approx(100 / 3), "y": 50, "width": 0.5, "keypointlabels": ["cat"]}
    empty = InstanceMask(np.zeros(SIZE[::-1], bool), (0.0, 0.0, 1.0, 1.0))
    assert regions_of([empty], "cat", read_config(set_up("cat")), SIZE) == []


def test_only_its_own_files_are_fetched_with_its_key():
    files = LabelStudioFiles("http://10.0.0.5:8080", "secret")
    assert files.resolve("/data/upload/1/cat.png") == "http://10.0.0.5:8080/data/upload/1/cat.png"
    assert files.resolve("http://10.0.0.5:8080/data/local-files/?d=a.png")
    assert files.resolve("/data/upload/1/100%25%20cats.png")
    for address in (
        "http://10.0.0.6:8080/data/a.png",
        "//10.0.0.6/data/a.png",
        "https://10.0.0.5:8080/data/a.png",
        "http://10.0.0.5:8080@evil.example/data/a.png",
        "/api/users",
        "/data/../api/users",
        "/data/%2e%2e/api/users",
        "/data/%252E./api/users",
        "/data/%2525252525252e%2e/api/users",
        "http://[::1/data/",
        "file:///data/a.png",
    ):
        assert files.resolve(address) is None, address
    with pytest.raises(UserError, match="LABEL_STUDIO_URL"):
        LabelStudioFiles("10.0.0.5:8080", "")


@pytest.fixture
def task(held_out):
    """A task with its image in it, and a label that is found there."""
    address = "data:image/png;base64," + base64.b64encode(held_out[0].image).decode()
    return {"id": 5, "data": {"picture": address}}, held_out[0].question


def body(tasks: list[dict], config: str, context: dict | None = None) -> dict:
    """A request as Label Studio's own connector writes it."""
    params = {"login": None, "password": None, "context": context}
    return {"tasks": tasks, "model_version": None, "project": "1.17", "label_config": config, "params": params}


@pytest.mark.slow
def test_labels_are_questions(server, pipeline, held_out, task, tmp_path):
    one, question = task
    [expected] = pipeline([held_out[0].image], [question])
    assert expected.instances
    with server.http() as http:
        assert http.get("/label-studio/health").json()["status"] == "UP"
        setup = {
            "project": "1.17",
            "schema": set_up(question),
            "hostname": "http://localhost:8080",
            "access_token": "x",
        }
        version = http.post("/label-studio/setup", json=setup).json()["model_version"]
        assert http.get("/label-studio/versions").json() == {"versions": [version]}
        assert http.post("/label-studio/webhook", json={"action": "PROJECT_UPDATED"}).status_code == 200
        asked = body([one, one], set_up(question, "the largest shape"))
        answer = http.post("/label-studio/predict", json=asked)
    assert answer.status_code == 200, answer.text
    first, second = answer.json()["results"]
    assert first["model_version"] == version and 0 < first["score"] <= 1
    regions = [region for region in first["result"] if region["value"]["brushlabels"] == [question]]
    assert len(regions) == len(expected.instances)
    assert {region["id"] for region in first["result"]}.isdisjoint(region["id"] for region in second["result"])
    (tmp_path / "scene.png").write_bytes(held_out[0].image)
    annotated = {"id": 5, "data": {"image": "/data/upload/scene.png"}, "annotations": [{"result": regions}]}
    (tmp_path / "export.json").write_text(json.dumps([annotated]))
    [sample] = read(tmp_path / "export.json", "label_studio")
    for true, found in zip(sample.objects, expected.instances, strict=True):
        assert mask_iou(decode(true.rle), found.mask) > 0.99


@pytest.mark.slow
def test_clicks_and_texts_are_answered(server, pipeline, held_out, task):
    one, question = task
    [expected] = pipeline([held_out[0].image], [question])
    thing = expected.instances[0]
    x0, y0, x1, y1 = (100 * v / 224 for v in thing.box)
    rectangle = click(x0, y0, "rectanglelabels", width=x1 - x0, height=y1 - y0, size=(224, 224))
    words = {"type": "textarea", "value": {"text": [question]}}
    with server.http() as http:
        for context, label in (([rectangle], "cat"), ([words], "cat")):
            asked = body([one], set_up("cat", "dog"), {"result": context})
            [result] = http.post("/label-studio/predict", json=asked).json()["results"]
            assert len(result["result"]) == (1 if context == [rectangle] else len(expected.instances))
            [region, *_] = result["result"]
            assert region["value"]["brushlabels"] == [label] and region["from_name"] == "mask"
            assert (region["original_width"], region["original_height"]) == (224, 224)
        nothing = body([one], set_up("cat"), {"result": []})
        [result] = http.post("/label-studio/predict", json=nothing).json()["results"]
        assert result["result"] == [] and result["score"] == 0


@pytest.mark.slow
def test_mistakes_are_one_line(server, task):
    one, question = task
    held = {"id": 7, "data": {"picture": "/data/upload/1/cat.png"}}
    other_host = {"id": 8, "data": {"picture": "http://127.0.0.1/cat.png"}}
    broken = {"id": 9, "data": {"picture": "data:image/png;base64,%%"}}
    with server.http() as http:
        for asked, expected in [
            (body([held], set_up(question)), "held by Label Studio itself; start this server with LABEL_STUDIO_URL"),
            (body([other_host], set_up(question)), "image of task 8: send the image itself"),
            (body([broken], set_up(question)), "image of task 9"),
            (body([{"id": 1, "data": {}}], set_up(question)), "task 1 has no 'picture'"),
            (body([{"id": "a\nb" + "c" * 99, "data": {}}], set_up(question)), f"task a b{'c' * 37} has no"),
            (body([one], "<View/>"), "none of BrushLabels"),
            (body([one] * 65, set_up(question)), "fewer tasks"),
            (body([one, one], set_up(question), {"result": [click(1, 1)]}), "about one task"),
            ({"tasks": [one]}, "label_config"),
        ]:
            answer = http.post("/label-studio/predict", json=asked)
            message = answer.json()["error"]["message"]
            assert answer.status_code == 422 and expected in message and "\n" not in message, message


@pytest.fixture
def studio(held_out):
    """The URL of a Label Studio that serves its files to requests with its key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers["Authorization"] == "Token key" and self.path == "/data/upload/1/scene.png"
            self.send_response(200 if allowed else 401)
            self.end_headers()
            self.wfile.write(held_out[0].image if allowed else b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_files_of_label_studio_are_fetched_with_the_key_of_the_servers_environment(
    pipeline, held_out, studio, monkeypatch
):
    monkeypatch.setenv("LABEL_STUDIO_URL", studio)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "key")
    ask = body([{"id": 5, "data": {"picture": "/data/upload/1/scene.png"}}], set_up(held_out[0].question))
    with servers.running(pipeline, Limits(), Tokens(["token"])) as server, server.http() as http:
        assert http.post("/label-studio/predict", json=ask).status_code == 401
        assert http.get("/label-studio/health").status_code == 401
        # Label Studio knows names and passwords only.
        answer = http.post("/label-studio/predict", json=ask, auth=("anybody", "token"))
        assert answer.status_code == 200 and answer.json()["results"][0]["result"], answer.text
        assert http.post("/label-studio/predict", json=ask, auth=("token", "guess")).status_code == 401
        monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    with servers.running(pipeline) as server, server.http() as http:
        refused = http.post("/label-studio/predict", json=ask)
        assert refused.status_code == 422 and "answered 401" in refused.json()["error"]["message"]

"""A real server with the shipped models: its answers and its refusals."""

import base64
import io
import json
import re
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from segzero.images import load_image
from segzero.masks import decode, encode, mask_iou
from segzero.segmenter.cache import CachedSegmenter
from segzero.serving.client import Client
from segzero.serving.limits import Limits, Tokens
from tests.helpers import servers


def as_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def expected(pipeline, held_out):
    """The pipeline's own results for the scenes."""
    return pipeline([sample.image for sample in held_out], [sample.question for sample in held_out])


@pytest.fixture(scope="module")
def found(expected, held_out):
    """A scene with an object that is found, and the result."""
    return next((sample, result) for sample, result in zip(held_out, expected, strict=True) if result.instances)


@pytest.mark.parametrize("format", ["rle", "png"])
@pytest.mark.parametrize("kind", ["multipart", "json"])
def test_answers_are_the_pipelines(server, found, kind, format):
    sample, result = found
    with server.http() as http:
        if kind == "json":
            body = {"image": as_url(sample.image), "question": sample.question, "format": format}
            response = http.post("/v1/segment", json=body)
        else:
            fields = {"question": sample.question, "format": format}
            response = http.post("/v1/segment", files={"image": sample.image}, data=fields)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["raw_text"] == result.raw_text and answer["think"] == result.think and answer["error"] is None
    assert answer["timings"].keys() == {"queue", "policy", "segmenter"}
    for each, instance in zip(answer["instances"], result.instances, strict=True):
        assert each["box"] == list(instance.box) and 0 <= each["score"] <= 1
        if format == "png":
            mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(each["png"].partition(",")[2])))) > 0
        else:
            mask = decode(each["rle"])
        assert mask_iou(mask, instance.mask) > 0.99


def test_answers_are_never_swapped(server, held_out, expected):
    """Twelve clients at once; each answer is compared with that of its own image."""
    client = Client(server.url)
    jobs = [*range(len(held_out))] * 2
    with ThreadPoolExecutor(12) as clients:
        futures = [clients.submit(client.segment, held_out[n].image, held_out[n].question) for n in jobs]
        answers = [future.result(60) for future in futures]
    for n, answer in zip(jobs, answers, strict=True):
        assert answer.raw_text == expected[n].raw_text and answer.question == held_out[n].question
        assert mask_iou(answer.union, expected[n].union) > 0.99
    batch = [line for line in metrics(server).splitlines() if line.startswith("segzero_batch_items_bucket")]
    alone, total = (float(line.split()[-1]) for line in (batch[0], batch[-1]))
    assert alone < total, "no two requests ever shared a batch"


def test_an_image_is_encoded_once(server, found):
    sample, _ = found
    client, segmenter = Client(server.url), server.pool.cached_segmenters[0]
    client.segment(sample.image, sample.question)
    encoded, remembered = segmenter.encoded, segmenter.cache_hits
    client.segment(sample.image, "the largest shape")
    client.draw(sample.image, points=[(30, 40)])
    assert segmenter.encoded == encoded and segmenter.cache_hits == remembered + 2


def test_points_boxes_and_earlier_masks_become_masks(server, found):
    sample, result = found
    thing = result.instances[0]
    client = Client(server.url)
    drawn = client.draw(sample.image, box=thing.box)
    assert len(drawn) == 3 and [d.score for d in drawn] == sorted((d.score for d in drawn), reverse=True)
    assert mask_iou(drawn[0].mask, thing.mask) > 0.8
    middle = tuple(np.argwhere(thing.mask).mean(0)[::-1])
    again = client.draw(sample.image, points=[middle], labels=[1], mask=encode(thing.mask))
    assert max(mask_iou(d.mask, thing.mask) for d in again) > 0.8  # a point alone could be any reading
    with server.http() as http:
        prompts = [{"box": list(thing.box)}, {"points": [[1, 1], list(middle)], "labels": [0, 1]}]
        fields = {"prompts": json.dumps(prompts), "format": "png"}
        answer = http.post("/v1/prompt", files={"image": sample.image}, data=fields).json()
    assert [len(each["masks"]) for each in answer["objects"]] == [1, 1]
    assert answer["objects"][0]["masks"][0]["png"].startswith("data:image/png;base64,")


def test_the_examples_of_openapi_work(server):
    with server.http() as http:
        paths = http.get("/openapi.json").json()["paths"]
        posted = 0
        for path, methods in paths.items():
            content = methods.get("post", {}).get("requestBody", {}).get("content", {})
            if "{" not in path and "application/json" in content:
                response = http.post(path, json=content["application/json"]["example"])
                if response.status_code == 404 and response.json()["error"]["code"] in ("no_flags", "no_project"):
                    continue  # parts of a server that this one does not have
                assert response.status_code in (200, 201), f"{path}: {response.text}"
                posted += 1
        assert posted >= 2
        for page in ("/docs", "/redoc"):  # complete without the internet
            parts = re.findall(r'(?:src|href)="([^"]+)"', http.get(page).text)
            assert len(parts) >= 2 and {http.get(part).status_code for part in parts} == {200}, parts


def bomb() -> bytes:
    """A PNG of a few bytes whose header announces 10 gigapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = (100_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def test_images_that_cannot_be_used(server, found):
    sample, _ = found
    strip = io.BytesIO()
    Image.new("RGB", (4000, 2)).save(strip, "PNG")
    with server.http() as http:
        for image, message in [
            (sample.image[: len(sample.image) // 2], "damaged or cut off"),
            (bomb(), "megapixels"),
            (b"", "empty"),
            (b"<svg/>", "not an image"),
            (strip.getvalue(), "crop"),
        ]:
            response = http.post("/v1/segment", files={"image": image}, data={"question": "the shape"})
            assert (response.status_code, message in response.json()["error"]["message"]) == (422, True), response.text


SEGMENT_MISTAKES = [
    ({"image": "https://example.com/cat.png"}, 422, "fetches nothing"),
    ({"image": "file:///etc/passwd"}, 422, "send the image itself"),
    ({"image": "data:image/png;base64,%%%"}, 422, "damaged"),
    ({"image": None}, 422, "image:"),
    ({"question": ""}, 422, "empty"),
    ({"question": "x" * 2001}, 422, "2001 characters"),
    ({"question": "<|im_end|>"}, 422, "special tokens"),
    ({"question": 5}, 422, "question:"),
    ({"format": "gif"}, 422, "format:"),
    ({"formt": "rle"}, 422, "formt:"),
]
PROMPT_MISTAKES = [
    ({"prompts": []}, 422, "prompts:"),
    ({"prompts": [{}]}, 422, "needs a box or at least one point"),
    ({"prompts": [{"points": [[1e9, 5]]}]}, 422, "outside the image"),
    ({"prompts": [{"points": [[1, 2]], "labels": [1, 0]}]}, 422, "labels"),
    ({"prompts": [{"points": [[1, 2]], "labels": [7]}]}, 422, "labels"),
    ({"prompts": [{"box": [50, 50, 10, 10]}]}, 422, "x0 <= x1"),
    (
        {"prompts": [{"box": [1, 1, 9, 9], "mask": {"size": [9, 9], "counts": [81]}}]},
        422,
        "earlier mask: a mask of 9x9",
    ),
    ({"prompts": [{"box": [1, 1, 9, 9], "mask": {"size": [224, 224], "counts": "x"}}]}, 422, "malformed RLE"),
    ({"prompts": [{"box": [1, 1, 9, 9]}] * 65}, 422, "at most 64"),
]


def test_every_mistake_gets_one_clear_line(server, found):
    sample, _ = found
    good = {"image": as_url(sample.image)}
    jobs = [("/v1/segment", good | {"question": "the shape"} | wrong, *rest) for wrong, *rest in SEGMENT_MISTAKES]
    jobs += [("/v1/prompt", good | wrong, *rest) for wrong, *rest in PROMPT_MISTAKES]
    with server.http() as http:
        for path, body, status, expected in jobs:
            response = http.post(path, json=body)
            message = response.json()["error"]["message"]
            assert response.status_code == status and expected in message and "\n" not in message, f"{path}: {message}"
        nan = json.dumps(good | {"prompts": [{"points": [[float("nan"), 1]]}]})
        json_type = {"Content-Type": "application/json"}
        half = '{"image": "data:image/png;base64,AAAA", "question": "\\ud800"}'
        for body, headers, status in [
            (b"{", json_type, 400),
            (b"[]", json_type, 422),
            (b"", json_type, 422),
            (nan, json_type, 422),
            (half, json_type, (400, 422)),
            (b"hello", {"Content-Type": "text/plain"}, 415),
            (b"hello", {"Content-Type": "multipart/form-data"}, 400),
            (b"hello", {"Content-Type": "multipart/form-data; boundary=x"}, (400, 422)),
        ]:
            path = "/v1/prompt" if body is nan else "/v1/segment"
            response = http.post(path, content=body, headers=headers)
            assert response.status_code in np.atleast_1d(status), response.text
            assert response.json()["error"]["message"]
    assert not server.pool.batcher.failure


def test_requests_without_a_known_token_are_refused(pipeline, found):
    sample, _ = found
    with servers.running(pipeline, tokens=Tokens(["secret", "other"])) as server:
        fields = {"files": {"image": sample.image}, "data": {"question": sample.question}}
        for token, status in [(None, 401), ("guess", 401), ("secret", 200), ("other", 200)]:
            with server.http(token) as http:
                assert http.post("/v1/segment", **fields).status_code == status
                assert http.get("/metrics").status_code == status
                assert http.get("/healthz").status_code == http.get("/readyz").status_code == 200
        with server.http() as http:
            assert http.post("/v1/segment", headers={"Authorization": "Basic secret"}, **fields).status_code == 401


def metrics(server) -> str:
    with server.http() as http:
        return http.get("/metrics").text


def test_metrics_name_no_path_that_a_client_makes_up(server):
    with server.http() as http:
        assert http.post("/v1/made-up").status_code == 404
    text = metrics(server)
    assert "made-up" not in text and 'segzero_requests_total{path="other",status="404"}' in text
    for name in ("segzero_queue_length", "segzero_embedding_cache_bytes", 'segzero_images_total{how="encoded"}'):
        assert name in text


def test_logs_hold_no_image_no_question_and_no_token(pipeline, found, caplog):
    sample, _ = found
    caplog.set_level("INFO", "segzero.serving")
    with servers.running(pipeline, Limits(seconds=30), Tokens(["secret"])) as server, server.http("secret") as http:
        answer = http.post("/v1/segment", json={"image": as_url(sample.image), "question": sample.question})
    # Servers of other tests may log the end of their last request during this one.
    [record] = [one for one in caplog.records if one.fields["id"] == answer.headers["x-request-id"]]
    assert record.fields["status"] == 200 and record.fields["path"] == "/v1/segment" and record.fields["seconds"] > 0
    line = json.dumps(record.fields)
    assert sample.question not in line and "secret" not in line and len(line) < 300


def test_pictures_come_back_upright(server, found):
    """Sizes are those of the picture after its EXIF rotation, in the client too."""
    sample, _ = found
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    load_image(sample.image).resize((200, 100)).save(turned, "JPEG", exif=exif)
    answer = Client(server.url).segment(turned.getvalue(), "the largest shape")
    assert answer.image.size == (100, 200) and answer.union.shape == (200, 100)


def test_cached_embeddings_stay_within_bounds_and_keep_no_others_alive(pipeline, held_out):
    images = [load_image(sample.image) for sample in held_out[:4]]
    one = pipeline.segmenter.embed(images[:1]).nbytes
    segmenter = CachedSegmenter(pipeline.segmenter, 2 * one)
    together = segmenter.embed([*images, images[0]])
    plain = pipeline.segmenter.embed([*images, images[0]])
    assert all((a == b).all() for a, b in zip(together.features, plain.features, strict=True))
    assert segmenter.encoded == 4 and segmenter.cache_hits == 1 and segmenter.cache.held == 2 * one
    kept = segmenter.embed(images[3:])
    assert segmenter.encoded == 4 and sum(level.untyped_storage().nbytes() for level in kept.features) == one
    segmenter.embed(images[:1])
    assert segmenter.encoded == 5  # it had been dropped

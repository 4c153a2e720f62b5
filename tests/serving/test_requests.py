"""Bodies, images and prompts of requests, read without a server and before any model is used."""

import asyncio
import base64
import io
import json
import time
from types import SimpleNamespace

import pytest
from fastapi import Request
from PIL import Image
from starlette.exceptions import HTTPException

from segzero.errors import UserError
from segzero.masks import encode
from segzero.serving.errors import ApiError
from segzero.serving.limits import Limits
from segzero.serving.requests import (
    JSON_VALUES,
    LARGE_IMAGE,
    check_prompt_count,
    check_question,
    describe_body,
    mask_prompt,
    open_image,
    read_body,
)
from segzero.serving.schema import AskBody, Body, ObjectBody, PromptBody, SegmentBody

JSON = "application/json"


def png(width: int = 6, height: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, "PNG")
    return file.getvalue()


def data_url(file: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(file).decode()


def request(body: bytes = b"", content_type: str | None = JSON, seconds: float = 10.0) -> Request:
    """A request with that body, which comes in pieces."""
    pieces = [body[begin : begin + 1000] for begin in range(0, len(body), 1000)] or [b""]
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages[-1]["more_body"] = False

    async def receive():
        return messages.pop(0)

    headers = [] if content_type is None else [(b"content-type", content_type.encode())]
    server = SimpleNamespace(large_images=asyncio.Semaphore(1))
    app = SimpleNamespace(state=SimpleNamespace(server=server))
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "app": app}
    return Request(scope | {"segzero.deadline": time.monotonic() + seconds}, receive)


def read(model, body: bytes = b"", content_type: str | None = JSON):
    """Read a body as a route does."""

    async def run():
        return await read_body(model)(request(body, content_type))

    return asyncio.run(run())


def multipart(**fields: bytes | str) -> tuple[bytes, str]:
    """A multipart body and its content type; bytes are sent as a file."""
    body = b""
    for name, value in fields.items():
        file = '; filename="file"' if isinstance(value, bytes) else ""
        body += f'--cut\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        body += (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    return body + b"--cut--\r\n", "multipart/form-data; boundary=cut"


def test_a_json_body_is_checked_and_its_image_decoded_from_base64():
    body = {"image": data_url(png()), "question": "the mug", "format": "png"}
    for content_type in (JSON, "Application/JSON; charset=utf-8"):
        parsed = read(SegmentBody, json.dumps(body).encode(), content_type)
        assert (parsed.image, parsed.question, parsed.format, parsed.policy) == (png(), "the mug", "png", None)


def test_an_address_stays_an_address():
    body = {"image": "https://example.com/cat.png", "question": "the cat"}
    assert read(SegmentBody, json.dumps(body).encode()).image == "https://example.com/cat.png"


def test_a_multipart_body_gives_the_same_as_json():
    image = png(300, 200)
    parsed = read(SegmentBody, *multipart(image=image, question="the mug", format="png"))
    assert parsed == SegmentBody(image=image, question="the mug", format="png")


def test_lists_in_a_multipart_body_are_json_texts():
    prompts = [{"points": [[1, 2], [3, 4]], "labels": [1, 0]}, {"box": [0, 0, 5, 3]}]
    parsed = read(PromptBody, *multipart(image=png(), prompts=json.dumps(prompts), all_masks="true"))
    assert parsed.all_masks and parsed.prompts[0].points == [(1, 2), (3, 4)] and parsed.prompts[1].box == (0, 0, 5, 3)


@pytest.mark.parametrize("content_type", [JSON, None])
def test_an_empty_body_is_an_empty_object(content_type):
    assert read(Body, b"", content_type) == Body()


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    [
        (b'{"question": "a"}', "text/plain", 415, "send application/json or multipart/form-data, not 'text/plain'"),
        (b'{"question": "a"}', None, 415, "not 'nothing'"),
        (b"", "text/plain", 415, "not 'text/plain'"),
        (b"{", JSON, 400, "the body is not JSON"),
        (b'{"question": "\xff"}', JSON, 400, "the body is not JSON"),
        (b"[]", JSON, 422, "the body: "),
        (b"", JSON, 422, "question: Field required"),
        (b'{"question": "a", "abuot": 1}', JSON, 422, "abuot: Extra inputs"),
        (b'{"question": 5}', JSON, 422, "question: "),
        (b'{"question": "a", "format": "gif"}', JSON, 422, "format: "),
        (b'{"question": "a", "about": [' + b"1," * JSON_VALUES + b"1, 1]}", JSON, 422, "more than 500000 values"),
    ],
)
def test_a_body_that_cannot_be_used_says_why(body, content_type, status, message):
    with pytest.raises(ApiError) as refused:
        read(AskBody, body, content_type)
    assert refused.value.status == status and message in refused.value.message and "\n" not in refused.value.message


def test_a_wrong_field_within_a_list_is_named_by_its_place():
    body = {"image": data_url(png()), "prompts": [{"points": [[1, 2]]}, {"points": [[1, 2]], "labels": [7]}]}
    with pytest.raises(ApiError, match=r"^prompts\.1\.labels\.0: "):
        read(PromptBody, json.dumps(body).encode())


def test_multipart_bodies_that_cannot_be_used():
    with pytest.raises(ApiError, match="not JSON") as refused:
        read(PromptBody, *multipart(image=png(), prompts="[{"))
    assert refused.value.status == 400
    with pytest.raises(ApiError, match="more than 500000 values"):
        read(PromptBody, *multipart(image=png(), prompts="[" + "1," * JSON_VALUES + "1,1]"))
    with pytest.raises(ApiError, match=r"^image: Field required"):
        read(SegmentBody, *multipart(question="the mug"))
    for fields in ({f"field{number}": "a" for number in range(9)}, {"image": png(), "image2": png()}):
        with pytest.raises(HTTPException) as limited:
            read(SegmentBody, *multipart(**fields))
        assert limited.value.status_code == 400 and "Too many" in limited.value.detail


def test_a_body_is_described_with_its_definitions_in_place():
    content = describe_body(PromptBody)["requestBody"]["content"]
    assert "$ref" not in json.dumps(content) and content[JSON]["example"] == PromptBody.example
    multipart_fields = content["multipart/form-data"]["schema"]["properties"]
    assert multipart_fields["image"] == {"type": "string", "format": "binary"}
    assert multipart_fields["prompts"]["type"] == "string"  # JSON text
    assert set(describe_body(AskBody)["requestBody"]["content"]) == {JSON}  # no image, so no file


def test_small_images_are_decoded_and_large_ones_take_one_of_the_places():
    async def run():
        small, large = request(), request()
        places = large.app.state.server.large_images
        assert (await open_image(small, png(), Limits(), None)).size == (6, 4)
        assert "segzero.large_image" not in small.scope
        file = png(2500, 1700)
        assert LARGE_IMAGE < 2500 * 1700
        for _ in range(2):  # the second image of the same request needs no further place
            assert (await open_image(large, file, Limits(), None)).size == (2500, 1700)
        assert large.scope["segzero.large_image"] is places and places.locked()
        waiting = request(seconds=0.1)
        waiting.app.state.server.large_images = places
        with pytest.raises(ApiError) as late:
            await open_image(waiting, file, Limits(), None)
        assert late.value.status == 504 and "segzero.large_image" not in waiting.scope

    asyncio.run(run())


def test_images_that_cannot_be_used():
    async def run():
        with pytest.raises(UserError, match="megapixels"):
            await open_image(request(), png(20, 20), Limits(pixels=399), None)
        with pytest.raises(UserError, match="not an image"):
            await open_image(request(), b"<svg/>", Limits(), None)
        with pytest.raises(ApiError, match="this server fetches nothing"):
            await open_image(request(), "https://example.com/cat.png", Limits(), None)

    asyncio.run(run())


def test_an_address_is_fetched_up_to_the_size_of_a_body():
    fetched = []

    def fetch(address: str, max_bytes: int) -> bytes:
        fetched.append((address, max_bytes))
        return png()

    async def run():
        return await open_image(request(), "https://example.com/cat.png", Limits(body=1000), fetch)

    assert asyncio.run(run()).size == (6, 4) and fetched == [("https://example.com/cat.png", 1000)]


def test_a_prompt_keeps_its_earlier_mask_if_that_is_of_the_images_size():
    rle = encode([[0, 1, 1], [0, 0, 1]])
    prompt, earlier = mask_prompt(ObjectBody(points=[(1, 1)], labels=[1], mask=rle), (3, 2))
    assert (prompt.points, prompt.labels, prompt.box, earlier) == (((1, 1),), (1,), None, rle)
    assert mask_prompt(ObjectBody(box=(0, 0, 2, 2)), (3, 2))[1] is None
    with pytest.raises(ApiError, match="the earlier mask: a mask of 3x2") as refused:
        mask_prompt(ObjectBody(box=(0, 0, 2, 2), mask=rle), (4, 4))
    assert refused.value.status == 422


def test_questions_that_are_too_long_or_hold_half_a_character():
    assert check_question("x" * 10, Limits(question=10)) == "x" * 10
    with pytest.raises(ApiError, match="has 11 characters; at most 10") as refused:
        check_question("x" * 11, Limits(question=10))
    assert refused.value.code == "question_too_long"
    with pytest.raises(ApiError, match="lone surrogate"):
        check_question("a\ud800", Limits())


def test_large_images_take_fewer_prompts():
    check_prompt_count(64, (1600, 1200))
    check_prompt_count(8, (5000, 5000))
    check_prompt_count(1, (40_000, 40_000))
    with pytest.raises(ApiError) as refused:
        check_prompt_count(9, (5000, 5000))
    assert refused.value.status == 422
    assert refused.value.message == "9 prompts about an image of 5000x5000; send at most 8 at once"

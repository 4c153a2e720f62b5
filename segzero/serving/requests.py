"""A request's body, JSON or multipart, becomes a checked model; its image becomes pixels.

Both take time, so both happen in threads, and as long as the request has time.
"""

import asyncio
from typing import Any, TypeVar

import pydantic_core
from fastapi import Request
from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from segzero.errors import UserError
from segzero.images import load_image, measure_image
from segzero.masks import RLE, check_rle
from segzero.segmenter import MaskPrompt
from segzero.serving.errors import Problem
from segzero.serving.limits import Limits
from segzero.serving.options import Fetch
from segzero.serving.schema import Body, ObjectBody
from segzero.serving.threads import decoding, fetching, reading, within

B = TypeVar("B", bound=Body)
JSON_VALUES = 500_000  # in a body: each may take some 200 bytes of memory, and the interpreter's time
LARGE = 4_000_000  # pixels; above them images wait for each other: up to 12 bytes a pixel while they are decoded
MASK_PIXELS = 200_000_000  # of all prompts of a request: up to three masks each, at about a second for 20 million


async def read_body(request: Request, model: type[B]) -> B:
    """Of the kind that its Content-Type says; an empty body is an empty JSON object."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        # The door bounds the whole body, and so every part of it.
        async with request.form(max_files=1, max_fields=8, max_part_size=1 << 40) as form:
            fields: dict[str, Any] = {}
            for name, value in form.items():
                fields[name] = await value.read() if isinstance(value, UploadFile) else value
        return await reading.run(request.scope, _check, model, fields, True)
    body = await request.body()
    if kind not in ("application/json", "") or (body and not kind):
        raise Problem(415, "wrong_type", f"send application/json or multipart/form-data, not {kind or 'nothing'!r}")
    return await reading.run(request.scope, _check, model, body or b"{}", False)


def describe_body(model: type[Body]) -> dict[str, Any]:
    """For OpenAPI, which FastAPI would write by itself if a body could be of one kind only."""
    plain = model.model_json_schema(ref_template="{model}")
    schema = _inlined(plain, plain.pop("$defs", {}))
    content: dict[str, Any] = {"application/json": {"schema": schema, "example": model.example}}
    if "image" in schema["properties"]:
        fields = dict(schema["properties"]) | {"image": {"type": "string", "format": "binary"}}
        fields |= {name: {"type": "string", "description": "JSON, as in a JSON body"} for name in model.as_json}
        content["multipart/form-data"] = {"schema": {**schema, "properties": fields}}
    return {"requestBody": {"required": True, "content": content}}


async def open_image(request: Request, image: bytes | str, limits: Limits, fetch: Fetch | None) -> Image.Image:
    """Checked before it is decoded: kind, width and height; fetched first, if it is an address and that is allowed.

    A request with a large image has one of the few places for them until it ends.
    """
    file = await image_file(request, image, limits, fetch)
    width, height = await reading.run(request.scope, measure_image, file, limits.pixels, "the image")
    if width * height <= LARGE:
        return await reading.run(request.scope, load_image, file, limits.pixels, "the image")
    if "segzero.large" not in request.scope:
        places: asyncio.Semaphore = request.app.state.large_images
        await within(request.scope, places.acquire())
        request.scope["segzero.large"] = places  # the door gives the place back
    return await decoding.run(request.scope, load_image, file, limits.pixels, "the image")


async def image_file(request: Request, image: bytes | str, limits: Limits, fetch: Fetch | None) -> bytes:
    """As it came, or from where its address says; nothing is known of it yet."""
    if isinstance(image, bytes):
        return image
    if fetch is None:
        said = "send the image itself, as a file or as data:image/png;base64,...; this server fetches nothing"
        raise Problem(422, "bad_request", said)
    return await fetching.run(request.scope, fetch, image, limits.body)


def read_prompt(body: ObjectBody, size: tuple[int, int]) -> tuple[MaskPrompt, RLE | None]:
    """A prompt, and the earlier mask, which becomes logits only where their size is known."""
    try:
        rle = None if body.mask is None else check_rle(body.mask, size)
    except UserError as error:
        raise Problem(422, "bad_request", f"the earlier mask: {error}") from None
    return MaskPrompt(box=body.box, points=tuple(body.points), labels=tuple(body.labels)), rle


def check_masks(count: int, size: tuple[int, int]) -> None:
    """As many masks of that size as can be written in seconds."""
    most = max(1, MASK_PIXELS // (size[0] * size[1]))
    if count > most:
        said = f"{count} prompts about an image of {size[0]}x{size[1]}; send at most {most} at once"
        raise Problem(422, "bad_request", said)


def check_question(question: str, limits: Limits) -> str:
    """A question that is short enough and made of characters."""
    if len(question) > limits.question:
        said = f"the question has {len(question)} characters; at most {limits.question} are read"
        raise Problem(422, "question_too_long", said)
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise Problem(422, "bad_request", "the question holds half a character (a lone surrogate); leave it out")
    return question


def _check(model: type[B], body: bytes | dict[str, Any], multipart: bool) -> B:
    try:
        if isinstance(body, bytes):
            body = _parse(body)
        elif multipart:
            body |= {name: _parse(body[name]) for name in model.as_json if name in body}
    except ValueError as error:
        raise Problem(400, "not_json", f"the body is not JSON: {error}") from None
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise Problem(422, "bad_request", f"{where}: {first['msg'].removeprefix('Value error, ')}") from None


def _parse(text: bytes | str) -> Any:
    """JSON of a bounded number of values; texts, which may be long, count little."""
    comma = b"," if isinstance(text, bytes) else ","
    if text.count(comma) > JSON_VALUES:  # type: ignore[arg-type]
        raise Problem(422, "bad_request", f"the body lists more than {JSON_VALUES} values; send less at once")
    return pydantic_core.from_json(text)


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    """A schema that refers to nothing outside of itself."""
    if isinstance(value, list):
        return [_inlined(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _inlined(definitions[value["$ref"]], definitions)
    return {key: _inlined(item, definitions) for key, item in value.items()}

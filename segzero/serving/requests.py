"""Dependencies of the routes: the server's state, the client's session, the checked body, the decoded image.

Checking a body and decoding an image take time, so both run in threads, until the request's deadline.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import pydantic_core
from fastapi import Depends, Request
from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from segzero.errors import UserError
from segzero.images import load_image, measure_image
from segzero.masks import RLE, check_rle
from segzero.segmenter import MaskPrompt
from segzero.serving.errors import ApiError
from segzero.serving.feedback import FeedbackStore
from segzero.serving.image_fetch import Fetch
from segzero.serving.label_studio import LabelStudioFiles
from segzero.serving.limits import Limits
from segzero.serving.metrics import Metrics
from segzero.serving.model_pool import ModelPool
from segzero.serving.options import ServerOptions
from segzero.serving.schema import Body, ObjectBody
from segzero.serving.sessions import Session, SessionStore
from segzero.serving.threads import decoding, fetching, reading, wait_until_deadline

B = TypeVar("B", bound=Body)
JSON_VALUES = 500_000  # in a body: each may take some 200 bytes of memory, and the interpreter's time
LARGE_IMAGE = 4_000_000  # pixels; larger images wait for each other: up to 12 bytes per pixel while they are decoded
MASK_PIXELS = 200_000_000  # of all prompts of a request: up to three masks each, at about a second for 20 million


@dataclass(frozen=True)
class ServerState:
    """Parts of a running server that its routes share; it is `app.state.server`."""

    pool: ModelPool
    sessions: SessionStore
    limits: Limits
    options: ServerOptions
    metrics: Metrics
    feedback: FeedbackStore | None  # None: answers can't be flagged
    label_studio: LabelStudioFiles | None  # None: files that Label Studio holds are refused
    large_images: asyncio.Semaphore


async def server_state(request: Request) -> ServerState:
    """The state of the server that has the request."""
    return request.app.state.server


State = Annotated[ServerState, Depends(server_state)]


async def own_session(request: Request, id: str, state: State) -> Session:
    """The session that the path names, if it belongs to the request's token."""
    return state.sessions.find(id, request.scope["segzero.owner"])


OwnSession = Annotated[Session, Depends(own_session)]


async def feedback_store(state: State) -> FeedbackStore:
    """The folder for flagged answers; without one the route does not exist."""
    if state.feedback is None:
        raise ApiError(404, "no_flags", "this server keeps no flags; start it with --flags FOLDER")
    return state.feedback


def read_body(model: type[B]) -> Callable[[Request], Awaitable[B]]:
    """Make a dependency that reads a JSON or multipart body; an empty body is an empty JSON object."""

    async def read(request: Request) -> B:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            # The middleware bounds the whole body, and so every part of it.
            async with request.form(max_files=1, max_fields=8, max_part_size=1 << 40) as form:
                fields: dict[str, Any] = {}
                for name, value in form.items():
                    fields[name] = await value.read() if isinstance(value, UploadFile) else value
            return await reading.run(request.scope, _check_body, model, fields)
        body = await request.body()
        if kind not in ("application/json", "") or (body and not kind):
            message = f"send application/json or multipart/form-data, not {kind or 'nothing'!r}"
            raise ApiError(415, "wrong_type", message)
        return await reading.run(request.scope, _check_body, model, body or b"{}")

    return read


def describe_body(model: type[Body]) -> dict[str, Any]:
    """Describe a body for OpenAPI; FastAPI does so itself only for bodies of a single content type."""
    plain = model.model_json_schema(ref_template="{model}")
    schema = _without_references(plain, plain.pop("$defs", {}))
    content: dict[str, Any] = {"application/json": {"schema": schema, "example": model.example}}
    if "image" in schema["properties"]:
        fields = dict(schema["properties"]) | {"image": {"type": "string", "format": "binary"}}
        fields |= {name: {"type": "string", "description": "JSON, as in a JSON body"} for name in model.as_json}
        content["multipart/form-data"] = {"schema": {**schema, "properties": fields}}
    return {"requestBody": {"required": True, "content": content}}


async def open_image(request: Request, image: bytes | str, limits: Limits, fetch: Fetch | None) -> Image.Image:
    """Decode an image after a check of its format and size; an address is fetched first, if `fetch` is given.

    A request with a large image holds one of the few places for them until it ends.
    """
    file = await image_file(request, image, limits, fetch)
    width, height = await reading.run(request.scope, measure_image, file, limits.pixels, "the image")
    if width * height <= LARGE_IMAGE:
        return await reading.run(request.scope, load_image, file, limits.pixels, "the image")
    if "segzero.large_image" not in request.scope:
        semaphore = request.app.state.server.large_images
        await wait_until_deadline(request.scope, semaphore.acquire())
        request.scope["segzero.large_image"] = semaphore  # the middleware releases it
    return await decoding.run(request.scope, load_image, file, limits.pixels, "the image")


async def image_file(request: Request, image: bytes | str, limits: Limits, fetch: Fetch | None) -> bytes:
    """The file of an image as it was sent, or fetched from its address; it has not been checked yet."""
    if isinstance(image, bytes):
        return image
    if fetch is None:
        message = "send the image itself, as a file or as data:image/png;base64,...; this server fetches nothing"
        raise ApiError(422, "bad_request", message)
    return await fetching.run(request.scope, fetch, image, limits.body)


def mask_prompt(body: ObjectBody, size: tuple[int, int]) -> tuple[MaskPrompt, RLE | None]:
    """Convert an object to a prompt and its earlier mask, which must be of the image's size."""
    try:
        rle = None if body.mask is None else check_rle(body.mask, size)
    except UserError as error:
        raise ApiError(422, "bad_request", f"the earlier mask: {error}") from None
    return MaskPrompt(box=body.box, points=tuple(body.points), labels=tuple(body.labels)), rle


def check_prompt_count(count: int, size: tuple[int, int]) -> None:
    """Refuse more prompts than masks of that size can be written for in a few seconds."""
    most = max(1, MASK_PIXELS // (size[0] * size[1]))
    if count > most:
        message = f"{count} prompts about an image of {size[0]}x{size[1]}; send at most {most} at once"
        raise ApiError(422, "bad_request", message)


def check_question(question: str, limits: Limits) -> str:
    """Return the question, if it is short enough and holds no lone surrogate."""
    if len(question) > limits.question:
        message = f"the question has {len(question)} characters; at most {limits.question} are read"
        raise ApiError(422, "question_too_long", message)
    if any("\ud800" <= character <= "\udfff" for character in question):
        message = "the question holds half a character (a lone surrogate); leave it out"
        raise ApiError(422, "bad_request", message)
    return question


def _check_body(model: type[B], body: bytes | dict[str, Any]) -> B:
    """Validate a JSON body (bytes), or the fields of a multipart body."""
    try:
        if isinstance(body, bytes):
            body = _parse(body)
        else:
            body |= {name: _parse(body[name]) for name in model.as_json if name in body}
    except ValueError as error:
        raise ApiError(400, "not_json", f"the body is not JSON: {error}") from None
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise ApiError(422, "bad_request", f"{where}: {first['msg'].removeprefix('Value error, ')}") from None


def _parse(text: bytes | str) -> Any:
    """Parse JSON with a bounded number of values; long strings count little."""
    comma = b"," if isinstance(text, bytes) else ","
    if text.count(comma) > JSON_VALUES:  # type: ignore[arg-type]
        raise ApiError(422, "bad_request", f"the body lists more than {JSON_VALUES} values; send less at once")
    return pydantic_core.from_json(text)


def _without_references(value: Any, definitions: dict[str, Any]) -> Any:
    """Put the definitions of a schema in the places that refer to them."""
    if isinstance(value, list):
        return [_without_references(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _without_references(definitions[value["$ref"]], definitions)
    return {key: _without_references(item, definitions) for key, item in value.items()}

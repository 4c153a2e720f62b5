"""/label-studio: an ML backend for Label Studio, whose projects connect to http://HOST:PORT/label-studio.

Files that Label Studio itself holds (/data/upload/...) are fetched from LABEL_STUDIO_URL with LABEL_STUDIO_API_KEY of
the server's own environment; hosts and keys in a request are ignored.
"""

import base64
import binascii
import threading
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import ConfigDict, Field

from segzero.errors import UserError
from segzero.masks import box_of
from segzero.pipeline import Pipeline, Query
from segzero.result import InstanceMask
from segzero.segmenter import MaskPrompt
from segzero.segmenter.protocol import best_first
from segzero.serving.errors import ERRORS, ApiError
from segzero.serving.label_studio import (
    KEY,
    URL,
    Config,
    image_address,
    read_config,
    read_context,
    regions_of,
    task_name,
)
from segzero.serving.requests import ServerState, State, check_question, open_image, read_body
from segzero.serving.responses import wait_for_models
from segzero.serving.schema import MAX_PROMPTS, Body
from segzero.serving.threads import writing

Labelled = tuple[str, Sequence[InstanceMask]]  # instances, and the label that their regions get

router = APIRouter(prefix="/label-studio", tags=["label studio"], responses=ERRORS)


class PredictBody(Body):
    """Tasks to predict; Label Studio sends more fields than these."""

    model_config = ConfigDict(extra="ignore")
    tasks: list[dict[str, Any]]
    label_config: str
    params: dict[str, Any] | None = Field(default=None)


class IgnoredBody(Body):
    """A body whose fields are not used."""

    model_config = ConfigDict(extra="ignore")


async def model_version(state: State) -> str:
    """The version that Label Studio shows: the names of the default models."""
    return f"{state.pool.policies[0]}, {state.pool.segmenters[0]}"


Version = Annotated[str, Depends(model_version)]
Ignored = Annotated[IgnoredBody, Depends(read_body(IgnoredBody))]


@router.get("/")
@router.get("/health")
async def health() -> dict[str, str]:
    """Report that the backend is up."""
    return {"status": "UP", "model_class": "SegZero"}


@router.post("/setup")
async def setup(version: Version, body: Ignored) -> dict[str, str]:
    """Accept a labelling set-up; Label Studio sends it again with each prediction."""
    return {"model_version": version}


@router.get("/versions")
async def versions(version: Version) -> dict[str, list[str]]:
    """List the versions; there is one."""
    return {"versions": [version]}


@router.post("/webhook")
async def webhook(body: Ignored) -> dict[str, str]:
    """Accept the news that annotations were made; nothing is trained here."""
    return {"status": "ignored"}


@router.post("/predict")
async def predict(
    request: Request, state: State, version: Version, body: Annotated[PredictBody, Depends(read_body(PredictBody))]
) -> Response:
    """Predict regions for each task: of all labels, or of what was clicked."""
    config = read_config(body.label_config)
    context = (body.params or {}).get("context")
    if context:
        if not isinstance(context, dict) or len(body.tasks) != 1:
            raise ApiError(422, "bad_request", "a context is an object, and about one task")
        results = [await _answer_smart_tool(request, state, body.tasks[0], context, config)]
    else:
        labels = [check_question(label, state.limits) for label in config.labels]
        if len(body.tasks) * len(labels) > MAX_PROMPTS:
            count = f"{len(body.tasks)} tasks with {len(labels)} labels each"
            message = f"{count}; at most {MAX_PROMPTS} questions at once: select fewer tasks in Label Studio"
            raise ApiError(422, "bad_request", message)
        # One after the other, so that one image is held at a time.
        results = [await _answer_labels(request, state, task, labels, config) for task in body.tasks]
    return JSONResponse({"results": [result | {"model_version": version} for result in results]})


async def _answer_labels(
    request: Request, state: ServerState, task: dict[str, Any], labels: list[str], config: Config
) -> dict[str, Any]:
    """Ask about each label of a task's image."""
    image = await _open(request, state, task, config)

    def segment(pipeline: Pipeline) -> list[Labelled]:
        results = pipeline.run([Query(image, label) for label in labels])
        return [(label, result.instances) for label, result in zip(labels, results, strict=True)]

    labelled = await wait_for_models(request, state.pool.run_step, segment, threading.Lock())
    return await writing.run(request.scope, _result, labelled, config, image)


async def _answer_smart_tool(
    request: Request, state: ServerState, task: dict[str, Any], context: dict[str, Any], config: Config
) -> dict[str, Any]:
    """Draw a mask from clicks or a box, or ask the policy about a text."""
    image = await _open(request, state, task, config)
    smart = read_context(context, config, image.size)
    if smart is None:
        labelled: list[Labelled] = []
    elif smart.prompt is None:
        question = check_question(smart.text, state.limits)
        result = await wait_for_models(request, state.pool.segment, image, question)
        labelled = [(smart.label, result.instances)]
    else:
        labelled = [(smart.label, await _draw(request, state, image, smart.prompt))]
    return await writing.run(request.scope, _result, labelled, config, image)


async def _draw(request: Request, state: ServerState, image: Image.Image, prompt: MaskPrompt) -> list[InstanceMask]:
    """Draw the best mask of a prompt; none if it is empty."""
    [prediction] = await wait_for_models(request, state.pool.draw, image, [prompt])
    best, *_ = best_first(prediction)
    mask = prediction.masks[best]
    box = box_of(mask)
    inside = tuple(point for point, label in zip(prompt.points, prompt.labels, strict=True) if label)
    return [] if box is None else [InstanceMask(mask, box, inside, float(prediction.scores[best]))]


async def _open(request: Request, state: ServerState, task: dict[str, Any], config: Config) -> Image.Image:
    """Decode a task's image: a data URL, a file that Label Studio holds, or an address elsewhere."""
    address, limits, files = image_address(task, config), state.limits, state.label_studio
    try:
        if address.startswith("data:"):
            return await open_image(request, _decode_data_url(address), limits, None)
        if files is not None and (whole := files.resolve(address)):
            return await open_image(request, whole, limits, files.fetch)
        if address.startswith(("http://", "https://")):
            return await open_image(request, address, limits, state.options.fetch)
    except (UserError, ApiError) as error:
        if isinstance(error, ApiError) and error.status == 504:
            raise
        raise UserError(f"the image of {task_name(task)}: {error}") from error
    raise UserError(
        f"the image of {task_name(task)} is held by Label Studio itself; start this server with {URL} and {KEY}"
    )


def _result(labelled: list[Labelled], config: Config, image: Image.Image) -> dict[str, Any]:
    """Write the result of one task; its score is the mean over its regions."""
    regions = [region for label, instances in labelled for region in regions_of(instances, label, config, image.size)]
    scores = [region["score"] for region in regions]
    return {"result": regions, "score": sum(scores) / len(scores) if scores else 0.0}


def _decode_data_url(address: str) -> bytes:
    try:
        return base64.b64decode(address.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise UserError("its data URL is damaged") from None

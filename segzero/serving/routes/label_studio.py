"""/label-studio: what Label Studio calls of an ML backend. Its project is connected to http://HOST:PORT/label-studio.

Images that Label Studio itself holds (/data/upload/...) are fetched from LABEL_STUDIO_URL with LABEL_STUDIO_API_KEY,
as whoever runs this server has set them; whatever a request says about hosts and keys counts nothing.
"""

import base64
import binascii
import os
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import ConfigDict, Field

from segzero.errors import UserError
from segzero.masks import box_of
from segzero.pipeline import SegZeroPipeline
from segzero.result import InstanceMask
from segzero.segmenter import MaskPrompt
from segzero.segmenter.protocol import best_first
from segzero.serving import threads
from segzero.serving.errors import ERRORS, Problem
from segzero.serving.image_fetch import fetch
from segzero.serving.label_studio import Clicks, Config, image_address, read_config, read_context, regions_of, task_name
from segzero.serving.limits import Limits
from segzero.serving.model_pool import Models
from segzero.serving.options import Extras
from segzero.serving.requests import check_question, open_image, read_body
from segzero.serving.responses import answer_of
from segzero.serving.schema import MAX_PROMPTS, Body

PREFIX = "/label-studio"
URL, KEY = "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"


class PredictBody(Body):
    """What Label Studio asks; it sends more than that."""

    model_config = ConfigDict(extra="ignore")
    tasks: list[dict[str, Any]]
    label_config: str
    params: dict[str, Any] | None = Field(default=None)


class AnythingBody(Body):
    """What is of no concern here."""

    model_config = ConfigDict(extra="ignore")


@dataclass(frozen=True)
class Home:
    """The Label Studio that tasks come from."""

    url: str
    key: str

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"{URL} is {self.url!r}; write http://HOST:PORT")

    def holds(self, address: str) -> str | None:
        """The whole address of a file that it holds, or None; nothing else there is asked for."""
        try:
            whole = urljoin(self.url + "/", address)
            there, here = urlsplit(whole), urlsplit(self.url)
        except ValueError:
            return None
        path = there.path
        for _ in range(3):  # a proxy on the way may unquote it, and would then ask for another path
            path = unquote(path)
        held = there.path.startswith("/data/") and ".." not in path and unquote(path) == path
        return whole if held and (there.scheme, there.netloc) == (here.scheme, here.netloc) else None

    def fetch(self, address: str, most: int) -> bytes:
        """From there and nowhere else; it may well have a private address, and the key is for it alone."""
        headers = {"Authorization": f"Token {self.key}"} if self.key else {}
        return fetch(address, most, is_allowed=lambda ip: True, headers=headers, redirects=0)


def add_label_studio(app: FastAPI, models: Models, limits: Limits, extras: Extras) -> None:
    """Add the routes."""
    common: dict[str, Any] = {"tags": ["label studio"], "responses": ERRORS}
    url = os.environ.get(URL, "").rstrip("/")
    home = Home(url, os.environ.get(KEY, "")) if url else None
    version = f"{models.policies[0]}, {models.segmenters[0]}"

    @app.get(f"{PREFIX}/", **common)
    @app.get(f"{PREFIX}/health", **common)
    async def health() -> dict[str, str]:
        """Label Studio looks whether anybody is there."""
        return {"status": "UP", "model_class": "SegZero"}

    @app.post(f"{PREFIX}/setup", **common)
    async def setup(request: Request) -> dict[str, str]:
        """Label Studio tells the labelling set-up; it comes again with each question."""
        await read_body(request, AnythingBody)
        return {"model_version": version}

    @app.get(f"{PREFIX}/versions", **common)
    async def versions() -> dict[str, list[str]]:
        """There is one."""
        return {"versions": [version]}

    @app.post(f"{PREFIX}/webhook", **common)
    async def webhook(request: Request) -> dict[str, str]:
        """Annotations were made; nothing is trained here."""
        await read_body(request, AnythingBody)
        return {"status": "ignored"}

    @app.post(f"{PREFIX}/predict", **common)
    async def predict(request: Request) -> Response:
        """Regions for each task: of all labels, or of what was clicked."""
        body = await read_body(request, PredictBody)
        config = read_config(body.label_config)
        context = (body.params or {}).get("context")
        if context:
            if not isinstance(context, dict) or len(body.tasks) != 1:
                raise Problem(422, "bad_request", "a context is an object, and about one task")
            results = [await _interact(request, body.tasks[0], context, config)]
        else:
            results = await _find(request, body.tasks, config)
        for each in results:
            each["model_version"] = version
        return JSONResponse({"results": results})

    async def _find(request: Request, tasks: list[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
        labels = [check_question(label, limits) for label in config.labels]
        if len(tasks) * len(labels) > MAX_PROMPTS:
            said = f"{len(tasks)} tasks with {len(labels)} labels each; at most {MAX_PROMPTS} questions at once"
            raise Problem(422, "bad_request", f"{said}: select fewer tasks in Label Studio")
        return [await _label(request, task, labels, config) for task in tasks]  # so that one image is held at a time

    async def _label(request: Request, task: dict[str, Any], labels: list[str], config: Config) -> dict[str, Any]:
        image = await _open(request, task, config)

        def work(pipeline: SegZeroPipeline) -> list[tuple[InstanceMask, ...]]:
            return [result.instances for result in pipeline([image] * len(labels), labels)]

        found = await answer_of(request, models, models.run, work, threading.Lock())
        told = list(zip(labels, found, strict=True))
        return await threads.writing.run(request.scope, _result, told, config, image)

    async def _interact(
        request: Request, task: dict[str, Any], context: dict[str, Any], config: Config
    ) -> dict[str, Any]:
        image = await _open(request, task, config)
        clicks = read_context(context, config, image.size)
        found: tuple[InstanceMask, ...] = ()
        if clicks is not None and clicks.prompt is None:
            question = check_question(clicks.text, limits)
            found = (await answer_of(request, models, models.segment, image, question)).instances
        elif clicks is not None:
            found = await _draw(request, image, clicks)
        told = [] if clicks is None else [(clicks.label, found)]
        return await threads.writing.run(request.scope, _result, told, config, image)

    async def _draw(request: Request, image: Image.Image, clicks: Clicks) -> tuple[InstanceMask, ...]:
        prompt = clicks.prompt or MaskPrompt()
        [drawn] = await answer_of(request, models, models.draw, image, [prompt])
        best, *_ = best_first(drawn)
        mask = drawn.masks[best]
        box = box_of(mask)
        inside = tuple(point for point, label in zip(prompt.points, prompt.labels, strict=True) if label)
        return () if box is None else (InstanceMask(mask, box, inside, float(drawn.scores[best])),)

    async def _open(request: Request, task: dict[str, Any], config: Config) -> Image.Image:
        address = image_address(task, config)
        try:
            if address.startswith("data:"):
                return await open_image(request, _decoded(address), limits, None)
            if home is not None and (whole := home.holds(address)):
                return await open_image(request, whole, limits, home.fetch)
            if address.startswith(("http://", "https://")):
                return await open_image(request, address, limits, extras.fetch)
        except (UserError, Problem) as error:
            if isinstance(error, Problem) and error.status == 504:
                raise
            raise UserError(f"the image of {task_name(task)}: {error}") from error
        raise UserError(
            f"the image of {task_name(task)} is held by Label Studio itself; start this server with {URL} and {KEY}"
        )


def _result(told: list[tuple[str, tuple[InstanceMask, ...]]], config: Config, image: Image.Image) -> dict[str, Any]:
    regions = [region for label, found in told for region in regions_of(found, label, config, image.size)]
    scores = [region["score"] for region in regions]
    return {"result": regions, "score": sum(scores) / len(scores) if scores else 0.0}


def _decoded(address: str) -> bytes:
    try:
        return base64.b64decode(address.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise UserError("its data URL is damaged") from None

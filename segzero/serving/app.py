"""The server as an ASGI app: its routes and what they share.

>>> app = create_app(SegZeroPipeline.from_pretrained(), Limits(), Tokens(["secret"]))     # doctest: +SKIP
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from segzero import __version__
from segzero.errors import TimedOut, UserError
from segzero.pipeline import SegZeroPipeline
from segzero.policy import Policy
from segzero.segmenter import Segmenter
from segzero.serving import writing
from segzero.serving.dialogue_routes import add_dialogues
from segzero.serving.door import Door
from segzero.serving.limits import Limits, Tokens
from segzero.serving.metrics import Metrics
from segzero.serving.models import Models
from segzero.serving.problems import Problem
from segzero.serving.reading import check_question, describe_body, open_image, read_body, read_prompt
from segzero.serving.schema import ErrorAnswer, PromptAnswer, PromptBody, SegmentAnswer, SegmentBody
from segzero.serving.waiting import answer_of, dead, json_answer

ABOUT = """Segment by reasoning: a question about an image becomes a think-chain, boxes, points and masks.

Every error is `{"error": {"code", "message"}}`. 429 and 503 say in Retry-After when to come again."""
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": meaning}
    for status, meaning in {
        400: "The body is not what its Content-Type says.",
        401: "No known bearer token.",
        413: "The body is too large.",
        422: "The image, the question or a field can't be used.",
        429: "Too many requests at once.",
        503: "The models are gone; the server is going.",
        504: "No answer in time.",
    }.items()
}


def create_app(pipeline: SegZeroPipeline, limits: Limits = Limits(), tokens: Tokens = Tokens()) -> FastAPI:
    """The server as an ASGI app; the models are `app.state.models`, whose thread ends with the app's lifespan."""
    metrics = Metrics()
    models = Models(pipeline, limits, metrics.batch_done)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(models.close, limits.seconds)

    bearer = [Depends(HTTPBearer(auto_error=False))] if tokens else []  # only described here: the door checks it
    app = FastAPI(title="SegZero", version=__version__, description=ABOUT, lifespan=lifespan, dependencies=bearer)
    app.state.models, app.state.metrics, app.state.limits = models, metrics, limits
    app.add_middleware(Door, limits=limits, tokens=tokens, metrics=metrics, wait=models.batcher.wait)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(HTTPException, _http_error)
    _add_state(app, models, metrics)
    _add_segmenting(app, models, limits)
    metrics.watch(models, add_dialogues(app, models, limits, ERRORS))
    return app


def _add_state(app: FastAPI, models: Models, metrics: Metrics) -> None:
    @app.get("/healthz", tags=["state"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["state"], responses={503: ERRORS[503]})
    async def readyz() -> JSONResponse:
        """The models answer, and which they are."""
        if models.batcher.why_dead:
            return JSONResponse(dead().body(), 503, dead().headers)
        names = {"policy": _named(models.pipeline.policy), "segmenter": _named(models.segmenter)}
        return JSONResponse({"status": "ready", **names})

    @app.get("/metrics", tags=["state"])
    async def metrics_page() -> Response:
        """Figures in Prometheus' format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_segmenting(app: FastAPI, models: Models, limits: Limits) -> None:
    @app.post(
        "/v1/segment",
        tags=["segment"],
        response_model=SegmentAnswer,
        responses=ERRORS,
        openapi_extra=describe_body(SegmentBody),
    )
    async def segment(request: Request) -> Response:
        """Ask a question about an image."""
        body = await read_body(request, SegmentBody)
        question = check_question(body.question, limits)
        image = await open_image(body.image, limits)
        result = await answer_of(request, models, models.segment, image, question)
        return await json_answer(writing.segmentation, result, body.format)

    @app.post(
        "/v1/prompt",
        tags=["segment"],
        response_model=PromptAnswer,
        responses=ERRORS,
        openapi_extra=describe_body(PromptBody),
    )
    async def prompt(request: Request) -> Response:
        """Draw masks from points, boxes and earlier masks."""
        body = await read_body(request, PromptBody)
        if len(body.prompts) > limits.prompts:
            raise Problem(422, "bad_request", f"{len(body.prompts)} prompts; at most {limits.prompts} in one request")
        image = await open_image(body.image, limits)
        asked = await asyncio.to_thread(lambda: [read_prompt(each, image.size) for each in body.prompts])
        prompts, earlier = [each for each, _ in asked], [rle for _, rle in asked]
        drawn = await answer_of(request, models, models.draw, image, prompts, earlier)
        return await json_answer(writing.objects, drawn, image.size, body.all_masks, body.format)


async def _user_error(request: Request, error: Exception) -> Response:
    status, code = (504, "timed_out") if isinstance(error, TimedOut) else (422, "refused")
    return JSONResponse(Problem(status, code, str(error)).body(), status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "bad_request")
    return JSONResponse(Problem(error.status_code, code, str(error.detail)).body(), error.status_code, error.headers)


def _named(model: Policy | Segmenter) -> str:
    """A hub name as it is; of a folder, only what it is called: where it lies is nobody's business."""
    return Path(model.name).name if Path(model.name).is_absolute() else model.name

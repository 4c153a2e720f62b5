"""The server as an ASGI app: its routes and what they share.

>>> app = create_app(SegZeroPipeline.from_pretrained(), Limits(), Tokens(["secret"]))     # doctest: +SKIP
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from segzero import __version__
from segzero.errors import UserError
from segzero.pipeline import SegZeroPipeline
from segzero.serving import writing
from segzero.serving.dialogue_routes import add_dialogues
from segzero.serving.door import Door
from segzero.serving.extras import Extras
from segzero.serving.label_studio_routes import add_label_studio
from segzero.serving.limits import Limits, Tokens
from segzero.serving.metrics import Metrics
from segzero.serving.models import Models
from segzero.serving.offer_routes import add_offer
from segzero.serving.problems import Problem, dead, problem_of
from segzero.serving.reading import check_masks, check_question, describe_body, open_image, read_body, read_prompt
from segzero.serving.schema import ErrorAnswer, PromptAnswer, PromptBody, SegmentAnswer, SegmentBody
from segzero.serving.ui import add_ui
from segzero.serving.waiting import answer_of, json_answer

ABOUT = """Segment by reasoning: a question about an image becomes a think-chain, boxes, points and masks.

Every error is `{"error": {"code", "message"}}`. 429 and 503 say in Retry-After when to come again."""
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": meaning}
    for status, meaning in {
        400: "The body is not what its Content-Type says.",
        401: "No known bearer token.",
        403: "A web page of another site sent it.",
        413: "The body is too large.",
        422: "The image, the question or a field can't be used.",
        429: "Too many requests at once.",
        503: "The models are gone and the server is going, or a policy's own server does not answer.",
        504: "No answer in time.",
    }.items()
}


def create_app(
    pipeline: SegZeroPipeline, limits: Limits = Limits(), tokens: Tokens = Tokens(), extras: Extras = Extras()
) -> FastAPI:
    """The server as an ASGI app; the models are `app.state.models`, whose thread ends with the app's lifespan."""
    metrics = Metrics()
    models = Models(pipeline, limits, metrics.batch_done, extras.policies, extras.segmenters)

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
    app.add_exception_handler(RequestValidationError, _wrong_address)
    _add_state(app, models, metrics)
    add_offer(app, models, limits, extras, ERRORS)
    _add_segmenting(app, models, limits, extras)
    metrics.watch(models, add_dialogues(app, models, limits, extras, ERRORS))
    add_label_studio(app, models, limits, extras, ERRORS)
    if extras.page:
        add_ui(app)
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
        return JSONResponse({"status": "ready", "policy": models.policies[0], "segmenter": models.segmenters[0]})

    @app.get("/metrics", tags=["state"])
    async def metrics_page() -> Response:
        """Figures in Prometheus' format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_segmenting(app: FastAPI, models: Models, limits: Limits, extras: Extras) -> None:
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
        chosen = models.choose(body.policy, body.segmenter)
        question = check_question(body.question, limits)
        image = await open_image(body.image, limits, extras.fetch)
        result = await answer_of(request, models, models.segment, image, question, chosen)
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
        chosen = models.choose(body.policy, body.segmenter)
        image = await open_image(body.image, limits, extras.fetch)
        check_masks(len(body.prompts), image.size)
        asked = await asyncio.to_thread(lambda: [read_prompt(each, image.size) for each in body.prompts])
        prompts, earlier = [each for each, _ in asked], [rle for _, rle in asked]
        drawn = await answer_of(request, models, models.draw, image, prompts, earlier, chosen)
        return await json_answer(writing.objects, drawn, image.size, body.all_masks, body.format)


async def _user_error(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    return JSONResponse(problem.body(), problem.status, problem.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "bad_request")
    return JSONResponse(Problem(error.status_code, code, str(error.detail)).body(), error.status_code, error.headers)


async def _wrong_address(request: Request, error: Exception) -> Response:
    """Parameters in the path or behind the question mark; bodies are read by `reading`."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    problem = Problem(422, "bad_request", f"{first['loc'][-1]}: {first['msg']}")
    return JSONResponse(problem.body(), problem.status)

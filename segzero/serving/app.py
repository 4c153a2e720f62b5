"""The server as an ASGI app: its routes and what they share.

>>> app = create_app(SegZeroPipeline.from_pretrained(), Limits(), Tokens(["secret"]))     # doctest: +SKIP
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from segzero import __version__
from segzero.errors import UserError
from segzero.pipeline import SegZeroPipeline
from segzero.serving.errors import Problem, problem_of
from segzero.serving.limits import Limits, Tokens
from segzero.serving.metrics import Metrics
from segzero.serving.middleware import Door
from segzero.serving.model_pool import Models
from segzero.serving.options import Extras
from segzero.serving.routes.dialogues import add_dialogues
from segzero.serving.routes.info import add_offer, add_state
from segzero.serving.routes.label_studio import add_label_studio
from segzero.serving.routes.segment import add_segmenting
from segzero.serving.threads import decoding
from segzero.serving.ui import add_ui

ABOUT = """Segment by reasoning: a question about an image becomes a think-chain, boxes, points and masks.

Every error is `{"error": {"code", "message"}}`. 429 and 503 say in Retry-After when to come again."""


def create_app(
    pipeline: SegZeroPipeline, limits: Limits = Limits(), tokens: Tokens = Tokens(), extras: Extras = Extras()
) -> FastAPI:
    """The server as an ASGI app; the models are `app.state.models`, which end with the app's lifespan."""
    metrics = Metrics()
    models = Models(pipeline, limits, metrics.batch_done, extras.policies, extras.segmenters)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(models.close, limits.seconds)

    bearer = [Depends(HTTPBearer(auto_error=False))] if tokens else []  # only described here: the door checks it
    app = FastAPIOffline(
        title="SegZero", version=__version__, description=ABOUT, lifespan=lifespan, dependencies=bearer
    )
    app.state.models, app.state.metrics, app.state.limits = models, metrics, limits
    app.state.large_images = asyncio.Semaphore(decoding.count)
    app.add_middleware(Door, limits=limits, tokens=tokens, metrics=metrics, wait=models.wait)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _wrong_address)
    add_segmenting(app, models, limits, extras)  # in this order they are described at /docs
    metrics.watch(models, add_dialogues(app, models, limits, extras, len(tokens)))
    add_offer(app, models, limits, extras)
    add_label_studio(app, models, limits, extras)
    add_state(app, models, metrics)
    if extras.page:
        add_ui(app)
    return app


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

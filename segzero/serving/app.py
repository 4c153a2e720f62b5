"""The server as an ASGI app: its routes, and the parts that they share.

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
from segzero.pipeline import Pipeline
from segzero.serving.errors import ApiError, api_error
from segzero.serving.feedback import FeedbackStore
from segzero.serving.label_studio import files_from_environment
from segzero.serving.limits import Limits, Tokens
from segzero.serving.metrics import Metrics
from segzero.serving.middleware import GuardMiddleware
from segzero.serving.model_pool import ModelPool
from segzero.serving.options import ServerOptions
from segzero.serving.requests import ServerState
from segzero.serving.routes import (
    annotation,
    dialogues,
    everything,
    exports,
    info,
    label_studio,
    programs,
    segment,
    words,
)
from segzero.serving.sessions import SessionStore
from segzero.serving.threads import decoding
from segzero.serving.ui import add_ui

ABOUT = """Segment by reasoning: a question about an image becomes a think-chain, boxes, points and masks.

Every error is `{"error": {"code", "message"}}`. 429 and 503 say in Retry-After when to come again."""
ROUTERS = (  # /docs shows them in this order
    segment.router,
    everything.router,
    words.router,
    programs.router,
    dialogues.router,
    exports.router,
    annotation.router,
    info.offer_router,
    label_studio.router,
    info.state_router,
)


def create_app(
    pipeline: Pipeline,
    limits: Limits = Limits(),
    tokens: Tokens = Tokens(),
    options: ServerOptions = ServerOptions(),
) -> FastAPI:
    """Build the ASGI app; its `app.state.server` is a ServerState, whose models end with the app's lifespan."""
    metrics = Metrics()
    pool = ModelPool(pipeline, limits, metrics.batch_done, options)
    sessions = SessionStore(limits, len(tokens))
    metrics.watch(pool, sessions)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(pool.close, limits.seconds)

    bearer = [Depends(HTTPBearer(auto_error=False))] if tokens else []  # for OpenAPI alone: the middleware checks it
    app = FastAPIOffline(
        title="SegZero", version=__version__, description=ABOUT, lifespan=lifespan, dependencies=bearer
    )
    app.state.server = ServerState(
        pool,
        sessions,
        limits,
        options,
        metrics,
        feedback=None if options.flags is None else FeedbackStore(options.flags, limits.flags),
        label_studio=files_from_environment(),
        large_images=asyncio.Semaphore(decoding.count),
    )
    app.add_middleware(GuardMiddleware, limits=limits, tokens=tokens, metrics=metrics, expected_wait=pool.expected_wait)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _wrong_parameter)
    for router in ROUTERS:
        app.include_router(router)
    if options.page:
        add_ui(app)
    return app


async def _user_error(request: Request, error: Exception) -> Response:
    return _error_response(api_error(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "bad_request")
    return _error_response(ApiError(error.status_code, code, str(error.detail), error.headers))


async def _wrong_parameter(request: Request, error: Exception) -> Response:
    """Report a wrong parameter of the path or the query; bodies are checked in `requests`."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _error_response(ApiError(422, "bad_request", f"{first['loc'][-1]}: {first['msg']}"))


def _error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, error.headers)

"""Between the event loop and the models: an answer is waited for while the client waits, and no longer."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.types import Receive

from segzero.serving import threads, writing
from segzero.serving.batching import Busy, Dead
from segzero.serving.models import Models
from segzero.serving.problems import ClientLeft, busy, dead, timed_out

T = TypeVar("T")


async def answer_of(request: Request, models: Models, submit: Callable[..., "Future[T]"], *arguments: Any) -> T:
    """What `submit(*arguments)` promises; the place is given up when the client leaves or its time is over."""
    leaving = asyncio.create_task(gone(request.receive))
    waiting: asyncio.Future[T] | None = None
    try:
        waiting = asyncio.wrap_future(submit(*arguments))
        either: set[asyncio.Future[Any]] = {waiting, leaving}
        seconds = request.scope["segzero.ends"] - time.monotonic()
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        if leaving.done():
            raise ClientLeft
        raise timed_out()
    except Busy:
        raise busy(models.wait()) from None
    except Dead:
        raise dead() from None
    finally:
        if waiting is not None:
            waiting.cancel()  # and with it what was submitted: what has not begun will not
        leaving.cancel()


async def json_answer(
    request: Request, write: Callable[..., dict[str, Any]], *arguments: Any, status: int = 200
) -> Response:
    """What `write` makes of the result, as a response."""
    body = await threads.writing.run(request.scope, lambda: writing.as_bytes(write(*arguments)))
    return Response(body, status, media_type="application/json")


async def gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass

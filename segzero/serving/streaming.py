"""Server-sent events: what a policy writes, while it writes it.

event: text            data: {"text": "<think>The red"}         what is new since the last one
event: round           data: {"number": 1, ...}                 the result, once
event: error           data: {"error": {"code", "message"}, "status": 503, "retry_after": 5}      or this, once
: wait                 now and then, so that no proxy takes the silence for an end
"""

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from fastapi import Request, Response
from starlette.types import Message, Receive, Scope, Send

from segzero.serving import threads
from segzero.serving.batching import Busy
from segzero.serving.errors import ClientLeft, Problem, busy, problem_of, timed_out
from segzero.serving.responses import gone

WAIT = 5.0  # seconds of silence between two comments
KIND = "text/event-stream"


def wants_events(request: Request) -> bool:
    """Whether the client asks for a stream."""
    return KIND in request.headers.get("accept", "")


class Heard:
    """A text that grows in one thread and is sent by the event loop of another. Only its newest state counts.

    So a client that reads slowly costs no memory, and one whose answer is begun anew sees no word twice.
    """

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._text, self._sent = "", 0

    def on_text(self, text: str) -> None:
        """All of it so far; from any thread."""
        self._text = text
        with suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self.news.set)

    def new(self) -> str:
        """What has not been sent yet."""
        text = self._text[self._sent :]
        self._sent += len(text)
        self.news.clear()
        return text


class EventStream(Response):
    """The answer to one request. `begin` starts the work, `write` makes JSON of what it gives.

    As with any answer, the work is given up when the client leaves or its time is over.
    """

    def __init__(
        self,
        heard: Heard,
        begin: Callable[[], "Future[Any]"],
        write: Callable[[Any], dict[str, Any]],
        wait: Callable[[], float],
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}, media_type=KIND)
        del self.headers["content-length"]
        self.heard, self.begin, self.write, self.wait = heard, begin, write, wait

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until one of them is the last."""
        leaving = asyncio.create_task(gone(receive))
        working: asyncio.Future[Any] | None = None
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            try:
                working = asyncio.wrap_future(self.begin())
                await self._follow(working, leaving, send, scope["segzero.ends"])
                name, told = "round", await threads.writing.run(scope, self.write, working.result())
            except ClientLeft:
                raise
            except Exception as error:
                name, told = "error", _as_event(busy(self.wait()) if isinstance(error, Busy) else problem_of(error))
                await send(_event(name, told, more=False))
                if told["status"] == 500:
                    raise
            else:
                await send(_event(name, told, more=False))
        finally:
            leaving.cancel()
            if working is not None:
                working.cancel()

    async def _follow(self, working: asyncio.Future, leaving: asyncio.Task, send: Send, ends: float) -> None:
        """Until the work is done: tell what is heard of it."""
        while True:
            news = asyncio.create_task(self.heard.news.wait())
            left = ends - time.monotonic()
            try:
                either: set[asyncio.Future[Any]] = {working, leaving, news}
                await asyncio.wait(either, timeout=min(WAIT, max(left, 0)), return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
            if leaving.done():
                raise ClientLeft
            done = working.done()  # before its last words are taken: more may come while these are sent
            if text := self.heard.new():
                await send(_event("text", {"text": text}))
            if done:
                return
            if left <= 0:
                raise timed_out()
            if not text:
                await send({"type": "http.response.body", "body": b": wait\n\n", "more_body": True})


def _event(name: str, told: dict[str, Any], more: bool = True) -> Message:
    body = f"event: {name}\ndata: {json.dumps(told, allow_nan=False)}\n\n".encode()
    return {"type": "http.response.body", "body": body, "more_body": more}


def _as_event(problem: Problem) -> dict[str, Any]:
    again = problem.headers.get("Retry-After")
    return problem.body() | {"status": problem.status} | ({"retry_after": int(again)} if again else {})

"""Server-sent events: a policy's answer while it is written.

event: text            data: {"text": "<think>The red"}         the new part of the text
event: round           data: {"number": 1, ...}                 the result, once
event: error           data: {"error": {"code", "message"}, "status": 503, "retry_after": 5}      or this, once
: wait                 a comment now and then, so that no proxy takes the silence for an end
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
from segzero.serving.errors import ApiError, ClientDisconnected, api_error, timed_out
from segzero.serving.responses import wait_for_disconnect

WAIT = 5.0  # seconds of silence between two comments
MEDIA_TYPE = "text/event-stream"


def wants_events(request: Request) -> bool:
    """Whether the client accepts a stream."""
    return MEDIA_TYPE in request.headers.get("accept", "")


class TextStream:
    """A growing text, written by one thread and sent by the event loop of another; only its latest state is kept.

    So a client that reads slowly costs no memory, and a client whose answer is begun anew gets no character twice.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._text, self._sent = "", 0

    def on_text(self, text: str) -> None:
        """Replace the text by its full state so far; from any thread."""
        self._text = text
        with suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self.changed.set)

    def take_new(self) -> str:
        """Return the part that has not been sent yet."""
        text = self._text[self._sent :]
        self._sent += len(text)
        self.changed.clear()
        return text


class EventStream(Response):
    """A response of events. `submit` starts the work, `convert` makes the JSON of the last event from its result.

    As with other responses, the work is cancelled when the client leaves or the deadline is over.
    """

    def __init__(
        self, text: TextStream, submit: Callable[[], "Future[Any]"], convert: Callable[[Any], dict[str, Any]]
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}, media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self.text, self.submit, self.convert = text, submit, convert

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the last one, a round or an error."""
        leaving = asyncio.create_task(wait_for_disconnect(receive))
        result: asyncio.Future[Any] | None = None
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            try:
                result = asyncio.wrap_future(self.submit())
                await self._send_text(result, leaving, send, scope["segzero.deadline"])
                content = await threads.writing.run(scope, self.convert, result.result())
            except ClientDisconnected:
                raise
            except Exception as error:
                content = _error_content(api_error(error))
                await send(_event("error", content, more=False))
                if content["status"] == 500:
                    raise
            else:
                await send(_event("round", content, more=False))
        finally:
            leaving.cancel()
            if result is not None:
                result.cancel()

    async def _send_text(self, result: asyncio.Future, leaving: asyncio.Task, send: Send, deadline: float) -> None:
        """Send each new part of the text until the result is there."""
        while True:
            changed = asyncio.create_task(self.text.changed.wait())
            left = deadline - time.monotonic()
            try:
                either: set[asyncio.Future[Any]] = {result, leaving, changed}
                await asyncio.wait(either, timeout=min(WAIT, max(left, 0)), return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            if leaving.done():
                raise ClientDisconnected
            done = result.done()  # before the text is taken: more of it may come while this part is sent
            if text := self.text.take_new():
                await send(_event("text", {"text": text}))
            if done:
                return
            if left <= 0:
                raise timed_out()
            if not text:
                await send({"type": "http.response.body", "body": b": wait\n\n", "more_body": True})


def _event(name: str, content: dict[str, Any], more: bool = True) -> Message:
    body = f"event: {name}\ndata: {json.dumps(content, allow_nan=False)}\n\n".encode()
    return {"type": "http.response.body", "body": body, "more_body": more}


def _error_content(error: ApiError) -> dict[str, Any]:
    again = error.headers.get("Retry-After")
    return error.body() | {"status": error.status} | ({"retry_after": int(again)} if again else {})

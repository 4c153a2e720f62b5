"""A client of any OpenAI-compatible server, such as `vllm serve`: requests are repeated while the server is busy.

A server's key is read from OPENAI_API_KEY in the environment. Every failure is one line.

>>> server = ChatServer("http://127.0.0.1:8000/v1")                                     # doctest: +SKIP
>>> server.call("/chat/completions", {"model": "a", "messages": []})["choices"]         # doctest: +SKIP
"""

import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from typing import Any, TypeVar

from segzero.errors import TimedOut, Unavailable, UserError, one_line, unknown_name
from segzero.images import data_url
from segzero.io import png_bytes
from segzero.policy.http import TooLarge, open_request, read_whole
from segzero.policy.protocol import Request

T = TypeVar("T")

BUSY = {408, 429, 500, 502, 503, 504}  # statuses after which the request is repeated
REFUSED_KEY = (401, 403)
LONGEST_WAIT = 120.0  # seconds; a server that asks for more is unavailable


class Busy(Exception):
    """The server can't answer now; the request may be repeated, after `wait` seconds if the server says so."""

    def __init__(self, problem: str = "", wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


class Refused(UserError):
    """The server answers, but not this request; `status` is its HTTP status."""

    def __init__(self, problem: str, status: int) -> None:
        super().__init__(problem)
        self.status = status


class ChatServer:
    """One server's address, time-out and patience; several threads may call it at once."""

    def __init__(self, url: str, timeout: float = 300.0, retries: int = 3, pause: float = 0.5) -> None:
        """Each request may take `timeout` seconds; the wait before a repetition doubles from `pause` up to 10 s."""
        self.url, self.timeout, self.retries, self.pause = url, timeout, retries, pause
        self._lock, self._not_before = threading.Lock(), 0.0  # time.monotonic() until which the server wants quiet

    def models(self) -> dict[str, dict[str, Any]]:
        """Descriptions of the models that the server lists, by name."""
        answer = self.call("/models")
        try:
            return {as_text(card["id"]): card for card in answer["data"]}
        except (KeyError, TypeError):
            raise UserError(f"{self.url} lists no models; an OpenAI-compatible address ends in /v1") from None

    def pick_model(self, wanted: str | None) -> dict[str, Any]:
        """Find the server's description of the model to use."""
        cards = self.models()
        if wanted is None and len(cards) != 1:
            names = one_line(", ".join(cards))
            raise UserError(f"{self.url} serves {len(cards)} models ({names}); name one: MODEL@{self.url}")
        name = wanted or next(iter(cards))
        if name not in cards:
            raise unknown_name(f"model at {self.url}", name, list(cards))
        return cards[name]

    def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send a request and parse the JSON of the answer."""

        def read() -> Any:
            with self.open(path, body) as response:
                return json.loads(read_whole(response))

        return self.retry(read)

    def retry(self, send: Callable[[], T]) -> T:
        """Send a request, again while the server is busy or if its answer got lost."""
        problem: Exception = Busy()
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(self.pause * 2 ** (attempt - 1), 10.0))
            self._wait_for_quiet()
            try:
                with self._errors_explained():
                    return send()
            except (Busy, TimedOut) as busy:
                problem = busy
                self._keep_quiet(busy)
        kind = TimedOut if isinstance(problem, TimedOut) else Unavailable
        raise kind(f"{problem} ({self.retries + 1} tries)")

    def open(self, path: str, body: dict[str, Any] | None) -> HTTPResponse:
        """Send a request once; its answer is to be read within the time-out."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            return open_request(urllib.request.Request(self.url + path, data, headers), self.timeout)
        except urllib.error.HTTPError as error:
            problem = _explain(error, self.url, path)
            if error.code in BUSY:
                raise Busy(problem, retry_after(error.headers.get("Retry-After"))) from None
            raise Refused(problem, error.code) from None

    def _keep_quiet(self, busy: Exception) -> None:
        """Let all threads wait as long as the server asks for."""
        if not isinstance(busy, Busy) or busy.wait is None:
            return
        if busy.wait > LONGEST_WAIT:
            raise Unavailable(f"{busy}; it asks to wait {busy.wait:.0f} s: try again later")
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + busy.wait)

    def _wait_for_quiet(self) -> None:
        while (left := self._not_before - time.monotonic()) > 0:
            time.sleep(left)

    @contextmanager
    def _errors_explained(self) -> Iterator[None]:
        """Turn errors of the connection into one line each."""
        try:
            yield
        except UserError:
            raise
        except urllib.error.URLError as error:
            if not isinstance(error.reason, TimeoutError):
                raise Unavailable(f"no server at {self.url} ({error.reason}); start one: vllm serve MODEL") from None
            raise TimedOut(f"{self.url} did not answer within {self.timeout:g} s") from None
        except TimeoutError:
            raise TimedOut(f"{self.url} did not answer within {self.timeout:g} s") from None
        except (HTTPException, OSError) as error:
            raise Busy(f"{self.url} broke off ({type(error).__name__})") from None
        except TooLarge as error:
            raise UserError(
                f"{self.url} sends {error}, which is not a policy's answer; is it an OpenAI-compatible server?"
            ) from None
        except (ValueError, RecursionError):
            raise UserError(f"{self.url} does not answer in JSON; an OpenAI-compatible address ends in /v1") from None


def split_address(address: str) -> tuple[str | None, str]:
    """Split an address into the model's name, if there is one, and the server's URL.

    >>> split_address("Qwen/Qwen2.5-VL-7B-Instruct@http://127.0.0.1:8000/v1/")
    ('Qwen/Qwen2.5-VL-7B-Instruct', 'http://127.0.0.1:8000/v1')
    """
    match = re.fullmatch(r"(?:(.+?)@)?(https?://(?:\[[^]]+\]|[^/\s:@]+)(?::\d+)?(?:/\S*?)?)/*", address)
    if match is None:
        raise UserError(
            f"{address!r} is not a server's address; write http://HOST:PORT/v1 or MODEL@http://HOST:PORT/v1"
        )
    return match[1], match[2]


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks to wait, which is a number or a date; None if it makes no sense.

    >>> retry_after("2"), retry_after("soon"), retry_after("-1")
    (2.0, None, None)
    """
    try:
        seconds = float(header or "")
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header or "").timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return seconds if 0 <= seconds < 1e9 else None


def with_images(request: Request) -> list[dict[str, Any]]:
    """Messages of a request with each image in its placeholder's place, as a PNG in a data URL."""
    images = iter(request.images)

    def fill(part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] != "image":
            return part
        return {"type": "image_url", "image_url": {"url": data_url(png_bytes(next(images)))}}

    return [{**message, "content": [fill(part) for part in message["content"]]} for message in request.messages]


def as_text(value: Any) -> str:
    """Check that a value is text; a server may write null where there is none."""
    if value is not None and not isinstance(value, str):
        raise TypeError
    return value or ""


def as_count(value: Any) -> int:
    """Check that a value is a whole number."""
    if not isinstance(value, int):
        raise TypeError
    return value


def _explain(error: urllib.error.HTTPError, url: str, path: str) -> str:
    """Explain a server's refusal of a request in one line."""
    if error.code in REFUSED_KEY:
        return f"{url} refuses the key ({error.code}); set OPENAI_API_KEY to one that it knows"
    if error.code == 404 and path == "/models":
        return f"{url} has no /models (404); an OpenAI-compatible address ends in /v1"
    if 300 <= error.code < 400:
        place = one_line(error.headers.get("Location") or "nowhere")
        return f"{url} leads to {place} ({error.code}), where no key is sent; give the address that answers itself"
    text = error.read(100_000).decode(errors="replace")
    try:
        answer = json.loads(text)
        message = answer.get("error", answer).get("message", text)
    except (ValueError, AttributeError, RecursionError):
        message = text
    return f"{url} answered {error.code}: {one_line(message)}"

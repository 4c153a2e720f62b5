"""Policies on any OpenAI-compatible server, such as `vllm serve`: images travel as PNG data URLs.

A server is written `http://HOST:PORT/v1`, or `MODEL@http://HOST:PORT/v1` where it serves several models. A
server's key is read from OPENAI_API_KEY in the environment. With vLLM's CPU build, start a server by
`python -m vllm.entrypoints.openai.api_server --model MODEL`: its `vllm` command does not know its own version.

>>> policy = load_policy("http://127.0.0.1:8000/v1", frame="stretch(840)", prompt="vision_reasoner")  # doctest: +SKIP
"""

import json
import math
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from typing import Any, TypeVar

from segzero.errors import TimedOut, Unavailable, UserError, one_line, unknown_name
from segzero.frames import Frame, native, parse_frame
from segzero.images import data_url
from segzero.io import png_bytes
from segzero.policy.checkpoint import DEFAULT_PROMPT, read_checkpoint, released
from segzero.policy.http import TooLarge, open_request, read_lines, read_whole
from segzero.policy.presence import presence_of
from segzero.policy.protocol import OnText, Reply, Request, Sampling
from segzero.prompts import get_prompt

T = TypeVar("T")

BUSY = {408, 429, 500, 502, 503, 504}  # statuses after which the request is repeated
# Plain decoding. vLLM takes settings that a request leaves out from the checkpoint's generation config.
VLLM_PLAIN = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


class OpenAIPolicy:
    """A model on a server, which is contacted at once: a wrong address or key shows before any work is done."""

    supports_concurrency = True

    def __init__(
        self,
        address: str,
        frame: str | Frame | None = None,
        prompt: str | None = None,
        concurrency: int = 16,
        timeout: float = 300.0,
        retries: int = 3,
    ) -> None:
        model, url = split_address(address)
        self.url, self.concurrency, self.timeout, self.retries = url, concurrency, timeout, retries
        card = self._pick_model(model)
        self.name = card["id"]
        self.extras = VLLM_PLAIN if card.get("owned_by") == "vllm" else {}
        self.frame, self.prompt = _frame_and_prompt(card, url, frame, prompt)

    def generate(self, requests: list[Request], sampling: Sampling = Sampling()) -> list[Reply]:
        """Answer each request, in order; at most `concurrency` are under way at once."""
        if len(requests) == 1:
            return [self._ask(requests[0], sampling, sampling.seed_for(0))]
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            futures = [pool.submit(self._ask, r, sampling, sampling.seed_for(i)) for i, r in enumerate(requests)]
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error, what is still queued is not sent

    def close(self) -> None:
        """Do nothing: no connection is held open."""

    def _ask(self, request: Request, sampling: Sampling, seed: int) -> Reply:
        body = {
            "model": self.name,
            "messages": _with_images(request),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "top_p": 1.0,
            "seed": seed,
            **self.extras,
        }
        if on_text := request.on_text:
            return self._retry(lambda: self._stream(body, on_text))
        if request.wants_presence:
            body["logprobs"] = True
        answer = self._call("/chat/completions", body)
        try:
            choice = answer["choices"][0]
            text, tokens = _text(choice["message"]["content"]), _count(answer["usage"]["completion_tokens"])
            presence = _presence(choice) if request.wants_presence else None
            return Reply(text, tokens, truncated=choice["finish_reason"] == "length", presence=presence)
        except (KeyError, IndexError, TypeError):
            raise UserError(f"{self.url} gave an answer without choices or usage: {one_line(answer)}") from None

    def _pick_model(self, wanted: str | None) -> dict[str, Any]:
        """Find the server's description of the model to use."""
        answer = self._call("/models")
        try:
            cards = {_text(card["id"]): card for card in answer["data"]}
        except (KeyError, TypeError):
            raise UserError(f"{self.url} lists no models; an OpenAI-compatible address ends in /v1") from None
        if wanted is None and len(cards) != 1:
            names = one_line(", ".join(cards))
            raise UserError(f"{self.url} serves {len(cards)} models ({names}); name one: MODEL@{self.url}")
        name = wanted or next(iter(cards))
        if name not in cards:
            raise unknown_name(f"model at {self.url}", name, list(cards))
        return cards[name]

    def _call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send a request and parse the JSON of the answer."""

        def read() -> Any:
            with self._open(path, body) as response:
                return json.loads(read_whole(response))

        return self._retry(read)

    def _retry(self, send: Callable[[], T]) -> T:
        """Send a request, again while the server is busy or if its answer got lost."""
        problem: Exception = _Busy()
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(0.25 * 2**attempt, 10.0))
            try:
                with self._errors_explained():
                    return send()
            except (_Busy, TimedOut) as busy:
                problem = busy
        kind = TimedOut if isinstance(problem, TimedOut) else Unavailable
        raise kind(f"{problem} ({self.retries + 1} tries)")

    def _stream(self, body: dict[str, Any], on_text: OnText) -> Reply:
        """Stream an answer: server-sent events, each a JSON object, the last one [DONE]."""
        text, finish, tokens = "", None, None
        ends = time.monotonic() + self.timeout
        streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
        with self._open("/chat/completions", streamed) as response:
            for line in read_lines(response):
                if time.monotonic() > ends:
                    raise TimeoutError
                if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
                    continue
                event = json.loads(line[5:])
                try:
                    if usage := event.get("usage"):
                        tokens = _count(usage["completion_tokens"])
                    choices = [(choice.get("finish_reason"), choice["delta"]) for choice in event.get("choices") or ()]
                    new = "".join(_text(delta.get("content")) for _, delta in choices)
                except (AttributeError, KeyError, TypeError):
                    raise UserError(f"{self.url} streams something else than answers: {one_line(event)}") from None
                finish = next((reason for reason, _ in choices if reason), finish)
                if new:
                    text += new
                    on_text(text)
        if finish is None:
            raise _Busy(f"{self.url} broke off")
        if tokens is None:
            raise UserError(f"{self.url} streams no usage; a server that does is needed to follow answers")
        return Reply(text, tokens, truncated=finish == "length")

    def _open(self, path: str, body: dict[str, Any] | None) -> HTTPResponse:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            return open_request(urllib.request.Request(self.url + path, data, headers), self.timeout)
        except urllib.error.HTTPError as error:
            problem = _explain(error, self.url, path)
            raise (_Busy if error.code in BUSY else UserError)(problem) from None

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
            raise _Busy(f"{self.url} broke off ({type(error).__name__})") from None
        except TooLarge as error:
            raise UserError(
                f"{self.url} sends {error}, which is not a policy's answer; is it an OpenAI-compatible server?"
            ) from None
        except (ValueError, RecursionError):
            raise UserError(f"{self.url} does not answer in JSON; an OpenAI-compatible address ends in /v1") from None


class _Busy(Exception):
    """The server can't answer now; the request may be repeated."""


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


def _frame_and_prompt(
    card: dict[str, Any], url: str, frame: str | Frame | None, prompt: str | None
) -> tuple[Frame, str]:
    """Frame and prompt of a served model: as given, else by the checkpoint's own files or its name.

    A bare `native` means the limits of the released Qwen2.5-VL; `native(min,max,factor)` those of another.
    """
    root = str(card.get("root") or card["id"])  # vLLM names the folder or the hub model it was started with
    if frame is None and os.path.isdir(root):  # noqa: PTH112 - False for a name that can't be a path
        checkpoint = read_checkpoint(root, prompt=prompt)
        return checkpoint.frame, checkpoint.prompt
    known_prompt, known_frame = released(root)
    frame = frame or known_frame
    if frame is None:
        raise UserError(
            f"how {card['id']!r} at {url} writes coordinates can't be seen from here; pass frame='native' for a "
            "Qwen2.5-VL, 'relative(1000)' for a Qwen2-VL or Qwen3-VL, 'stretch(840)' for a Seg-Zero checkpoint"
        )
    prompt = prompt or known_prompt or DEFAULT_PROMPT
    get_prompt(prompt)
    return (parse_frame(frame, native()) if isinstance(frame, str) else frame), prompt


def _with_images(request: Request) -> list[dict[str, Any]]:
    """Messages with each image in its placeholder's place."""
    images = iter(request.images)

    def fill(part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] != "image":
            return part
        return {"type": "image_url", "image_url": {"url": data_url(png_bytes(next(images)))}}

    return [{**message, "content": [fill(part) for part in message["content"]]} for message in request.messages]


def _explain(error: urllib.error.HTTPError, url: str, path: str) -> str:
    """Explain a server's refusal of a request in one line."""
    if error.code in (401, 403):
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


def _text(value: Any) -> str:
    """Check that a value is text; a server may write null where there is none."""
    if value is not None and not isinstance(value, str):
        raise TypeError
    return value or ""


def _presence(choice: dict[str, Any]) -> float | None:
    """`presence_of` the tokens that a server lists; None from a server that lists none, or something else."""
    try:
        listed = choice["logprobs"]["content"]
        pieces = [_text(token["token"]) for token in listed]
        return presence_of(pieces, [math.exp(min(float(token["logprob"]), 0.0)) for token in listed])
    except (KeyError, TypeError, ValueError):
        return None


def _count(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError
    return value

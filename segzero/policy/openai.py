"""Policies on any OpenAI-compatible server, such as `vllm serve`: images travel as PNG data URLs.

A server is written `http://HOST:PORT/v1`, or `MODEL@http://HOST:PORT/v1` where it serves several models. A
server's key is read from OPENAI_API_KEY in the environment. With vLLM's CPU build, start a server by
`python -m vllm.entrypoints.openai.api_server --model MODEL`: its `vllm` command does not know its own version.

>>> policy = load_policy("http://127.0.0.1:8000/v1", frame="stretch(840)", prompt="vision_reasoner")  # doctest: +SKIP
"""

import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from segzero.errors import UserError, one_line
from segzero.frames import Frame, native, parse_frame
from segzero.policy.chat_server import Busy, ChatServer, as_count, as_text, split_address, with_images
from segzero.policy.checkpoint import DEFAULT_PROMPT, read_checkpoint, released
from segzero.policy.http import read_lines
from segzero.policy.presence import presence_of
from segzero.policy.protocol import OnText, Reply, Request, Sampling
from segzero.prompts import get_prompt

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
        self.concurrency, self.server = concurrency, ChatServer(url, timeout, retries)
        card = self.server.pick_model(model)
        self.name = card["id"]
        self.extras = VLLM_PLAIN if card.get("owned_by") == "vllm" else {}
        self.frame, self.prompt = _frame_and_prompt(card, url, frame, prompt)

    def generate(self, requests: list[Request], sampling: Sampling = Sampling()) -> list[Reply]:
        """Answer each request, in order; at most `concurrency` are under way at once."""
        if len(requests) == 1:
            return [self._ask(requests[0], sampling, sampling.seed_for(0, requests[0].seed))]
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            futures = [
                pool.submit(self._ask, request, sampling, sampling.seed_for(place, request.seed))
                for place, request in enumerate(requests)
            ]
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error, what is still queued is not sent

    def close(self) -> None:
        """Do nothing: no connection is held open."""

    def _ask(self, request: Request, sampling: Sampling, seed: int) -> Reply:
        body = {
            "model": self.name,
            "messages": with_images(request),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "top_p": 1.0,
            "seed": seed,
            **self.extras,
        }
        if on_text := request.on_text:
            return self.server.retry(lambda: self._stream(body, on_text))
        if request.wants_presence:
            body["logprobs"] = True
        answer = self.server.call("/chat/completions", body)
        try:
            choice = answer["choices"][0]
            text, tokens = as_text(choice["message"]["content"]), as_count(answer["usage"]["completion_tokens"])
            presence = _presence(choice) if request.wants_presence else None
            return Reply(text, tokens, truncated=choice["finish_reason"] == "length", presence=presence)
        except (KeyError, IndexError, TypeError):
            raise UserError(f"{self.server.url} gave an answer without choices or usage: {one_line(answer)}") from None

    def _stream(self, body: dict[str, Any], on_text: OnText) -> Reply:
        """Stream an answer: server-sent events, each a JSON object, the last one [DONE]."""
        text, finish, tokens = "", None, None
        ends = time.monotonic() + self.server.timeout
        streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
        with self.server.open("/chat/completions", streamed) as response:
            for line in read_lines(response):
                if time.monotonic() > ends:
                    raise TimeoutError
                if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
                    continue
                event = json.loads(line[5:])
                try:
                    if usage := event.get("usage"):
                        tokens = as_count(usage["completion_tokens"])
                    choices = [(choice.get("finish_reason"), choice["delta"]) for choice in event.get("choices") or ()]
                    new = "".join(as_text(delta.get("content")) for _, delta in choices)
                except (AttributeError, KeyError, TypeError):
                    raise UserError(
                        f"{self.server.url} streams something else than answers: {one_line(event)}"
                    ) from None
                finish = next((reason for reason, _ in choices if reason), finish)
                if new:
                    text += new
                    on_text(text)
        if finish is None:
            raise Busy(f"{self.server.url} broke off")
        if tokens is None:
            raise UserError(f"{self.server.url} streams no usage; a server that does is needed to follow answers")
        return Reply(text, tokens, truncated=finish == "length")


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


def _presence(choice: dict[str, Any]) -> float | None:
    """`presence_of` the tokens that a server lists; None from a server that lists none, or something else."""
    try:
        listed = choice["logprobs"]["content"]
        pieces = [as_text(token["token"]) for token in listed]
        return presence_of(pieces, [math.exp(min(float(token["logprob"]), 0.0)) for token in listed])
    except (KeyError, TypeError, ValueError):
        return None

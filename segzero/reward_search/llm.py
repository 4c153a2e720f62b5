"""A language model on an OpenAI-compatible server, whose prompts and replies are kept as files.

llm/01-03.json   {"model", "messages", "seed", "reply", "finish", "input_tokens", "output_tokens", "seconds"}

A request that has a reply is not sent again.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segzero.errors import UserError, one_line
from segzero.io import write_json
from segzero.policy.chat_server import ChatServer, as_count, as_text

FOLDER = "llm"
MOST_TOKENS = 4096
TEMPERATURE = 1.0


@dataclass(frozen=True)
class LlmUsage:
    """Sums over the kept replies."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class LanguageModel:
    """A server, a model's name there, and the folder of the search."""

    server: ChatServer
    name: str
    out: Path

    def ask(self, name: str, system: str, words: str, seed: int) -> str:
        """Ask, or look up what was answered to the same words under that name."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": words}]
        request = {"model": self.name, "messages": messages, "seed": seed}
        file = self.out / FOLDER / f"{name}.json"
        kept = _read(file)
        if kept is not None and all(kept.get(key) == value for key, value in request.items()):
            return str(kept["reply"])
        begin = time.monotonic()
        answer = self.server.call(
            "/chat/completions", {**request, "temperature": TEMPERATURE, "max_tokens": MOST_TOKENS}
        )
        row = {**request, **_read_answer(answer, self.server.url), "seconds": round(time.monotonic() - begin, 3)}
        write_json(file, row, indent=1)
        return str(row["reply"])


def usage(out: Path) -> LlmUsage:
    """Add up what the replies of a search took."""
    rows = [row for file in sorted((out / FOLDER).glob("*.json")) if (row := _read(file)) is not None]
    return LlmUsage(
        len(rows),
        sum(row["input_tokens"] for row in rows),
        sum(row["output_tokens"] for row in rows),
        sum(row["seconds"] for row in rows),
    )


def _read(file: Path) -> dict[str, Any] | None:
    """A kept reply; None if there is none, or none that can be read."""
    try:
        row = json.loads(file.read_bytes())
        whole = isinstance(row["reply"], str) and isinstance(row["seconds"], int | float)
        as_count(row["input_tokens"]), as_count(row["output_tokens"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return row if whole else None


def _read_answer(answer: Any, url: str) -> dict[str, Any]:
    try:
        choice, used = answer["choices"][0], answer.get("usage") or {}
        return {
            "reply": as_text(choice["message"].get("content")),
            "finish": as_text(choice.get("finish_reason")),
            "input_tokens": as_count(used.get("prompt_tokens", 0)),
            "output_tokens": as_count(used.get("completion_tokens", 0)),
        }
    except (KeyError, IndexError, TypeError, AttributeError):
        raise UserError(f"{url} gave an answer without choices: {one_line(answer)}") from None

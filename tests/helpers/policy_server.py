"""A small OpenAI-compatible server in this process: it says one text, word by word if it is asked to stream."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODELS = {"data": [{"id": "speaker", "owned_by": "someone"}]}


@dataclass
class Speaker:
    """What it says, in which pieces and how fast; `breaks` is how many streams break off before their end."""

    words: list[str]
    pause: float = 0.0  # before each word
    breaks: int = 0
    usage: bool = True
    port: int = 0
    asked: list[dict] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@contextmanager
def speaking(speaker: Speaker) -> Iterator[Speaker]:
    """Serve at `speaker.port` (any free one, if it is 0) until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(json.dumps(MODELS).encode(), "application/json")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            speaker.asked.append(body)
            if not body.get("stream"):
                time.sleep(speaker.pause)
                choice = {"message": {"content": "".join(speaker.words)}, "finish_reason": "stop"}
                usage = {"completion_tokens": len(speaker.words)}
                self.answer(json.dumps({"choices": [choice], "usage": usage}).encode(), "application/json")
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            broken = speaker.breaks > 0
            speaker.breaks -= broken
            for word in speaker.words[: len(speaker.words) // 2 if broken else None]:
                time.sleep(speaker.pause)
                self.tell({"choices": [{"delta": {"content": word}, "finish_reason": None}]})
            if broken:
                return
            self.tell({"choices": [{"delta": {}, "finish_reason": "stop"}]})
            if speaker.usage:
                self.tell({"choices": [], "usage": {"completion_tokens": len(speaker.words)}})
            self.wfile.write(b"data: [DONE]\n\n")

        def tell(self, event: dict) -> None:
            self.wfile.write(b": ping\n\ndata: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.flush()

        def answer(self, data: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer.allow_reuse_address = True
    server = ThreadingHTTPServer(("127.0.0.1", speaker.port), Handler)
    server.handle_error = lambda *_: None  # a client that gave up waiting is part of the tests
    server.daemon_threads = True
    speaker.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield speaker
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def nobody_at() -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"

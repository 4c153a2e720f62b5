"""A small OpenAI-compatible server in this process that answers from a script, in pieces if asked to stream."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODELS = {"data": [{"id": "scripted", "owned_by": "tests"}]}


@dataclass
class ScriptedPolicyServer:
    """A server with a fixed answer, or one that depends on the request. It may be started several times on its port.

    `broken_streams` is how many of the next streams are cut off before their end.
    """

    words: list[str] | Callable[[dict], list[str]]  # the answer; a piece of the stream each
    pause: float = 0.0  # seconds before each word
    broken_streams: int = 0
    usage: bool = True
    port: int = 0
    requests: list[dict] = field(default_factory=list)  # bodies
    responses: int = 0  # sent to their end

    @property
    def url(self) -> str:
        """The address for `load_policy`."""
        return f"http://127.0.0.1:{self.port}/v1"

    @contextmanager
    def running(self) -> Iterator["ScriptedPolicyServer"]:
        """Serve at `port` (any free one, if it is 0) until the block ends."""
        stopped = threading.Event()
        ThreadingHTTPServer.allow_reuse_address = True
        server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self, stopped))
        server.handle_error = lambda *_: None  # a client that gave up waiting is part of the tests
        server.daemon_threads = True
        self.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stopped.set()
            server.shutdown()
            server.server_close()
            thread.join()


def _handler(script: ScriptedPolicyServer, stopped: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_json(MODELS)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            script.requests.append(body)
            words = script.words(body) if callable(script.words) else script.words
            (self.stream if body.get("stream") else self.answer)(words)

        def answer(self, words: list[str]) -> None:
            stopped.wait(script.pause)
            choice = {"message": {"content": "".join(words)}, "finish_reason": "stop"}
            script.responses += 1
            self.send_json({"choices": [choice], "usage": {"completion_tokens": len(words)}})

        def stream(self, words: list[str]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            broken = script.broken_streams > 0
            script.broken_streams -= broken
            for word in words[: len(words) // 2 if broken else None]:
                stopped.wait(script.pause)
                self.send_event({"choices": [{"delta": {"content": word}, "finish_reason": None}]})
            if broken:
                return
            script.responses += 1
            self.send_event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
            if script.usage:
                self.send_event({"choices": [], "usage": {"completion_tokens": len(words)}})
            self.wfile.write(b"data: [DONE]\n\n")

        def send_event(self, event: dict) -> None:
            self.wfile.write(b": ping\n\ndata: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.flush()

        def send_json(self, content: dict) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def unused_address() -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"

"""A small OpenAI-compatible server, whose answers a function makes: the scripted models are served with it.

>>> with serving(lambda body: (200, {}, {"choices": []}), "echo") as port:        # doctest: +SKIP
...     print(f"http://127.0.0.1:{port}/v1")
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], dict[str, Any]]  # status, headers, JSON


@contextmanager
def serving(
    answer: Callable[[dict[str, Any]], Answer], name: str, port: int = 0, key: Callable[[], str] = lambda: ""
) -> Iterator[int]:
    """Serve a model of that name at `port` (any free one, if it is 0) until the block ends; yields the port.

    `answer` gets the body of each chat request, in a thread of its own. `key` gives the key that requests must bring
    at the time; empty: any will do.
    """
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(answer, name, key))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client may have left
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(
    answer: Callable[[dict[str, Any]], Answer], name: str, key: Callable[[], str]
) -> type[BaseHTTPRequestHandler]:
    models = {"data": [{"id": name, "owned_by": "segzero"}]}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_json(200, {}, models) if self.allowed() else None

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.allowed():
                self.send_json(*answer(json.loads(body)))

        def allowed(self) -> bool:
            if key() and self.headers["Authorization"] != f"Bearer {key()}":
                self.send_json(401, {}, {"error": {"message": "wrong key"}})
                return False
            return True

        def send_json(self, status: int, headers: dict[str, str], content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            for header, value in {**headers, "Content-Type": "application/json", "Content-Length": len(data)}.items():
                self.send_header(header, str(value))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Keep silent."""

    return Handler

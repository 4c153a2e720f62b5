"""HTTP/1.1 protocol of uvicorn with bounds on heads and pipelined requests."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 1 << 16  # of a request line with its headers, and of all headers with those behind the body
PIPELINED = 16  # requests that wait behind one that is being answered


class BoundedHttp(HttpToolsProtocol):
    """A connection that refuses endless heads; httptools has no bounds of its own.

    h11, which has them, takes a second for 256 KB that come in chunks of one byte.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pending = 0  # bytes since the last complete head or piece of a body
        self._headers = 0  # bytes
        self._progress = False

    def data_received(self, data: bytes) -> None:
        """Pass data on to the parser, which calls the methods below."""
        self._progress = False
        super().data_received(data)
        self._pending = 0 if self._progress else self._pending + len(data)
        if self._pending > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The head of a request has more than {HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """Begin a request."""
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many requests without waiting for answers")  # the parser answers 400
        self._headers = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, which may also come behind a body in chunks."""
        self._headers += len(name) + len(value) + 4
        if self._headers > HEAD_BYTES:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request to the application."""
        self._progress = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand on a piece of the body."""
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body."""
        self._progress = True
        super().on_message_complete()

    def is_silent(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

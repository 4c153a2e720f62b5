"""What a client is told when there is no answer: a status, a code for programs and a line for people."""

from collections.abc import Mapping


class Problem(Exception):
    """Ends a request.

    >>> Problem(429, "busy", "too many requests; try again", {"Retry-After": "2"}).body()
    {'error': {'code': 'busy', 'message': 'too many requests; try again'}}
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})

    def body(self) -> dict[str, dict[str, str]]:
        """As JSON."""
        return {"error": {"code": self.code, "message": self.message}}


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""

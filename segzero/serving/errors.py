"""What a client is told when there is no answer: a status, a code for programs and a line for people."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from segzero.errors import TimedOut, Unavailable, UserError
from segzero.serving.batching import Dead
from segzero.serving.schema import ErrorAnswer

log = logging.getLogger("segzero.serving")
SOON = {"Retry-After": "5"}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": meaning}
    for status, meaning in {
        400: "The body is not what its Content-Type says.",
        401: "No known bearer token.",
        403: "A web page of another site sent it.",
        413: "The body is too large.",
        422: "The image, the question or a field can't be used.",
        429: "Too many requests at once.",
        503: "The models are gone and the server is going, or a policy's own server does not answer.",
        504: "No answer in time.",
    }.items()
}


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


def problem_of(error: BaseException) -> Problem:
    """What a client is told of an exception. Where the policy's own server is, is nobody's business."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Dead):
        return dead()
    if isinstance(error, Unavailable):
        log.warning("a policy's server can't be asked", extra={"fields": {"why": str(error)}})
        return Problem(503, "unavailable", "the server that answers for this policy is out of reach; try later", SOON)
    if isinstance(error, TimedOut):
        return timed_out()
    if isinstance(error, UserError):
        return Problem(422, "refused", str(error))
    return Problem(500, "internal", "a mistake of the server's; its log has it")


def dead() -> Problem:
    """Whoever watches over the server will start it again."""
    return Problem(503, "models_gone", "the models are gone and the server is ending", {"Retry-After": "30"})


def timed_out() -> Problem:
    """The client's time is over."""
    return Problem(504, "timed_out", "no answer in time; the server may be busy", SOON)


def busy(seconds: float) -> Problem:
    """Come again later."""
    again = str(max(1, math.ceil(seconds)))
    return Problem(429, "busy", f"too many requests; try again in {again} s", {"Retry-After": again})

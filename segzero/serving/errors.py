"""Errors that end a request: an HTTP status, a code for programs and a message for people."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from segzero.errors import TimedOut, Unavailable, UserError
from segzero.serving.schema import ErrorAnswer

log = logging.getLogger("segzero.serving")
SOON = {"Retry-After": "5"}
ERRORS: dict[int | str, dict[str, Any]] = {  # error responses of every route, for OpenAPI
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


class ApiError(Exception):
    """An error response.

    >>> ApiError(429, "busy", "too many requests; try again", {"Retry-After": "2"}).body()
    {'error': {'code': 'busy', 'message': 'too many requests; try again'}}
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})

    def body(self) -> dict[str, dict[str, str]]:
        """The JSON body of the response."""
        return {"error": {"code": self.code, "message": self.message}}


class ClientDisconnected(Exception):
    """The client closed its connection before it had the response."""


class QueueFull(Exception):
    """No room in a queue before the models; `seconds` is an estimate of when there will be some."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the queue is full; expect room in {seconds:.1f} s")
        self.seconds = seconds


class ModelUnavailable(Exception):
    """The models have failed, or the server is shutting down: no result will come."""


def api_error(error: BaseException) -> ApiError:
    """Convert an exception to the error that the client gets; the address of a policy's own server is not in it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        return too_many_requests(error.seconds)
    if isinstance(error, ModelUnavailable):
        return models_gone()
    if isinstance(error, Unavailable):
        log.warning("a policy's server can't be asked", extra={"fields": {"why": str(error)}})
        return ApiError(503, "unavailable", "the server that answers for this policy is out of reach; try later", SOON)
    if isinstance(error, TimedOut):
        return timed_out()
    if isinstance(error, UserError):
        return ApiError(422, "refused", str(error))
    return ApiError(500, "internal", "a mistake of the server's; its log has it")


def models_gone() -> ApiError:
    """Error 503 while the process ends; its supervisor is expected to start it again."""
    return ApiError(503, "models_gone", "the models are gone and the server is ending", {"Retry-After": "30"})


def timed_out() -> ApiError:
    """Error 504: the request's time is over."""
    return ApiError(504, "timed_out", "no answer in time; the server may be busy", SOON)


def too_many_requests(seconds: float) -> ApiError:
    """Error 429, with the estimated `seconds` until there is room."""
    again = str(max(1, math.ceil(seconds)))
    return ApiError(429, "busy", f"too many requests; try again in {again} s", {"Retry-After": again})

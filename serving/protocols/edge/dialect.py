"""Whose words an address speaks where they differ: the shape of errors, the request id's header."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from serving.errors import ErrorKind, ServingError

_ANTHROPIC_ROOT = "/v1/messages"

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    504: "timeout_error",
}

_OVERLOADED = frozenset({ErrorKind.OVERLOADED, ErrorKind.QUEUE_TIMEOUT})


class Dialect(NamedTuple):
    """`describe` returns the body of an error, given the id of the request."""

    request_id_headers: tuple[bytes, ...]
    describe: Callable[[ServingError, str], dict[str, object]]


def describe_for_anthropic(error: ServingError, request_id: str) -> dict[str, object]:
    """Returns Anthropic's error object. What it has no type for is the request's or the server's.

    A server that is full says `overloaded_error`, with our status 503 for Anthropic's own 529.
    """
    status = error.kind.value.http_status
    fallback = "invalid_request_error" if status < 500 else "api_error"
    kind = _ANTHROPIC_TYPES.get(status, fallback)
    if error.kind in _OVERLOADED:
        kind = "overloaded_error"
    return {
        "type": "error",
        "error": {"type": kind, "message": error.message},
        "request_id": request_id,
    }


def _describe_for_openai(error: ServingError, request_id: str) -> dict[str, object]:
    return error.body


OPENAI = Dialect((b"x-request-id",), _describe_for_openai)
ANTHROPIC = Dialect((b"x-request-id", b"request-id"), describe_for_anthropic)


def dialect_of(path: str) -> Dialect:
    """Returns the dialect of an address, whether or not anything is there."""
    if path == _ANTHROPIC_ROOT or path.startswith(_ANTHROPIC_ROOT + "/"):
        return ANTHROPIC
    return OPENAI

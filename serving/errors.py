"""One family of errors and the one table that maps each to HTTP, gRPC and a metric label.

Raise `ServingError` with an `ErrorKind`; the edge turns it into a response. The message is
public: it never holds a path, a traceback or a value that another client sent.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Mapping(NamedTuple):
    """How one kind of error is presented. `type` and `code` are OpenAI's error fields."""

    http_status: int
    grpc_code: str
    type: str
    code: str


class ErrorKind(Enum):
    """Every way in which a request can fail. `kind.value.code` is also the metric label."""

    INVALID_VALUE = Mapping(400, "INVALID_ARGUMENT", "invalid_request_error", "invalid_value")
    UNSUPPORTED = Mapping(400, "INVALID_ARGUMENT", "invalid_request_error", "unsupported_value")
    CONTEXT_LENGTH = Mapping(
        400, "INVALID_ARGUMENT", "invalid_request_error", "context_length_exceeded"
    )
    CONVERSATION_LOCKED = Mapping(400, "ABORTED", "invalid_request_error", "conversation_locked")
    PREVIOUS_RESPONSE = Mapping(
        400, "NOT_FOUND", "invalid_request_error", "previous_response_not_found"
    )
    WEBSOCKET_LIMIT = Mapping(
        400, "ABORTED", "invalid_request_error", "websocket_connection_limit_reached"
    )
    PERMISSION_DENIED = Mapping(403, "PERMISSION_DENIED", "permission_error", "permission_denied")
    NOT_FOUND = Mapping(404, "NOT_FOUND", "invalid_request_error", "not_found")
    MODEL_NOT_FOUND = Mapping(404, "NOT_FOUND", "invalid_request_error", "model_not_found")
    METHOD_NOT_ALLOWED = Mapping(
        405, "UNIMPLEMENTED", "invalid_request_error", "method_not_allowed"
    )
    BODY_TIMEOUT = Mapping(408, "DEADLINE_EXCEEDED", "invalid_request_error", "request_timeout")
    BODY_TOO_LARGE = Mapping(413, "INVALID_ARGUMENT", "invalid_request_error", "request_too_large")
    UNSUPPORTED_MEDIA = Mapping(
        415, "INVALID_ARGUMENT", "invalid_request_error", "unsupported_media_type"
    )
    HEADERS_TOO_LARGE = Mapping(
        431, "INVALID_ARGUMENT", "invalid_request_error", "headers_too_large"
    )
    CLIENT_CLOSED = Mapping(499, "CANCELLED", "invalid_request_error", "client_closed_request")
    INTERNAL = Mapping(500, "INTERNAL", "server_error", "internal_error")
    ENGINE_REQUEST = Mapping(500, "INTERNAL", "server_error", "engine_error")
    DEGENERATE_OUTPUT = Mapping(500, "INTERNAL", "server_error", "degenerate_output")
    INVALID_OUTPUT = Mapping(500, "INTERNAL", "server_error", "invalid_output")
    OVERLOADED = Mapping(503, "UNAVAILABLE", "server_error", "overloaded")
    QUEUE_TIMEOUT = Mapping(503, "UNAVAILABLE", "server_error", "queue_timeout")
    ENGINE_UNAVAILABLE = Mapping(503, "UNAVAILABLE", "server_error", "engine_unavailable")
    STORE_UNAVAILABLE = Mapping(503, "UNAVAILABLE", "server_error", "store_unavailable")
    TOOL_UNAVAILABLE = Mapping(503, "UNAVAILABLE", "server_error", "tool_unavailable")
    OUT_OF_MEMORY = Mapping(503, "RESOURCE_EXHAUSTED", "server_error", "engine_out_of_memory")
    DRAINING = Mapping(503, "UNAVAILABLE", "server_error", "draining")
    DEADLINE = Mapping(504, "DEADLINE_EXCEEDED", "server_error", "deadline_exceeded")


class ServingError(Exception):
    """A failure that the caller is told of.

    `message` is public. `param` names the request field, dotted and indexed as in
    `messages[0].content`. `retry_after_seconds` becomes the Retry-After header.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        param: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds

    @property
    def body(self) -> dict[str, object]:
        """Returns OpenAI's error object: message, type, param and code under `error`."""
        mapping = self.kind.value
        return {
            "error": {
                "message": self.message,
                "type": mapping.type,
                "param": self.param,
                "code": mapping.code,
            }
        }

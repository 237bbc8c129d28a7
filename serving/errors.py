"""One family of errors and the one table that maps each to HTTP, gRPC and a metric label.

Raise `ServingError` with an `ErrorKind`; the edge turns it into a response. The message is
public: it never holds a path, a traceback or a value that another client sent.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Mapping(NamedTuple):
    """How one kind of error is presented. `type` and `code` are OpenAI's error fields; `meaning`
    is what `/openapi.json` and docs/api.md say of it."""

    http_status: int
    grpc_code: str
    code: str
    meaning: str

    @property
    def type(self) -> str:
        """Who has to change something: whoever asks, or the service."""
        if self.http_status == 403:
            return "permission_error"
        return "invalid_request_error" if self.http_status < 500 else "server_error"


class ErrorKind(Enum):
    """Every way in which a request can fail. `kind.value.code` is also the metric label."""

    INVALID_VALUE = Mapping(
        400,
        "INVALID_ARGUMENT",
        "invalid_value",
        "The request is malformed, or a field has a value that it cannot have.",
    )
    UNSUPPORTED = Mapping(
        400,
        "INVALID_ARGUMENT",
        "unsupported_value",
        "It is in the specification, and this service or its engine does not have it.",
    )
    CONTEXT_LENGTH = Mapping(
        400,
        "INVALID_ARGUMENT",
        "context_length_exceeded",
        "The prompt, or it with the answer that is asked for, is longer than the context.",
    )
    CONVERSATION_LOCKED = Mapping(
        400, "ABORTED", "conversation_locked", "Another request writes to the conversation."
    )
    PREVIOUS_RESPONSE = Mapping(
        400, "NOT_FOUND", "previous_response_not_found", "The response to go on from is not here."
    )
    WEBSOCKET_LIMIT = Mapping(
        400,
        "ABORTED",
        "websocket_connection_limit_reached",
        "The WebSocket was open for as long as it may be.",
    )
    PERMISSION_DENIED = Mapping(
        403,
        "PERMISSION_DENIED",
        "permission_denied",
        "A page of another origin asks, or for a host that is not this service's.",
    )
    NOT_FOUND = Mapping(404, "NOT_FOUND", "not_found", "Nothing has this address or id.")
    MODEL_NOT_FOUND = Mapping(404, "NOT_FOUND", "model_not_found", "No model has the name.")
    METHOD_NOT_ALLOWED = Mapping(
        405, "UNIMPLEMENTED", "method_not_allowed", "The address has other methods."
    )
    BODY_TIMEOUT = Mapping(
        408, "DEADLINE_EXCEEDED", "request_timeout", "The body did not come in time."
    )
    BODY_TOO_LARGE = Mapping(
        413, "INVALID_ARGUMENT", "request_too_large", "The body has too many bytes."
    )
    UNSUPPORTED_MEDIA = Mapping(
        415,
        "INVALID_ARGUMENT",
        "unsupported_media_type",
        "The body says that it is not JSON in UTF-8.",
    )
    HEADERS_TOO_LARGE = Mapping(
        431, "INVALID_ARGUMENT", "headers_too_large", "The headers are too many or too long."
    )
    CLIENT_CLOSED = Mapping(499, "CANCELLED", "client_closed_request", "The client has left.")
    INTERNAL = Mapping(500, "INTERNAL", "internal_error", "A fault of this service.")
    ENGINE_REQUEST = Mapping(500, "INTERNAL", "engine_error", "The engine failed at this request.")
    DEGENERATE_OUTPUT = Mapping(
        500, "INTERNAL", "degenerate_output", "The model wrote no summary to compact to."
    )
    INVALID_OUTPUT = Mapping(
        500, "INTERNAL", "invalid_output", "The answer does not fit what it was held to."
    )
    OVERLOADED = Mapping(503, "UNAVAILABLE", "overloaded", "Too much runs or waits already.")
    QUEUE_TIMEOUT = Mapping(
        503, "UNAVAILABLE", "queue_timeout", "The request waited for its turn for too long."
    )
    ENGINE_UNAVAILABLE = Mapping(
        503, "UNAVAILABLE", "engine_unavailable", "The engine is starting, or has failed."
    )
    STORE_UNAVAILABLE = Mapping(
        503, "UNAVAILABLE", "store_unavailable", "What is stored cannot be read or written."
    )
    TOOL_UNAVAILABLE = Mapping(
        503, "UNAVAILABLE", "tool_unavailable", "The executor of a built-in tool does not answer."
    )
    OUT_OF_MEMORY = Mapping(
        503, "RESOURCE_EXHAUSTED", "engine_out_of_memory", "The engine had too little memory."
    )
    DRAINING = Mapping(503, "UNAVAILABLE", "draining", "The service is shutting down.")
    DEADLINE = Mapping(504, "DEADLINE_EXCEEDED", "deadline_exceeded", "The request took too long.")


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

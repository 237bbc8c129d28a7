"""The messages of a WebSocket: requests as they come in, and what is told besides the events."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.types import Message

from serving.errors import ErrorKind, ServingError
from serving.protocols.edge.body import decode_object
from serving.settings import Limits

Json = dict[str, Any]

STREAM_ID_MAX = 64


@dataclass(frozen=True, slots=True)
class SocketMessage:
    """A message of the client: an object, or what is wrong with it."""

    fields: Json
    size_bytes: int
    stream_id: str | None = None
    """The lane of the request, which all that is told of it names."""
    fault: ServingError | None = None

    @property
    def steers(self) -> bool:
        """Whether this is input for a response that runs, and no request."""
        return self.fields.get("type") == "response.steer"

    def request(self) -> Json:
        """Returns the request that this is, as a body of HTTP. Raises ServingError."""
        if self.fault is not None:
            raise self.fault
        fields = dict(self.fields)
        if fields.pop("type", None) != "response.create":
            raise ServingError(
                ErrorKind.INVALID_VALUE, "'type' must be 'response.create'.", param="type"
            )
        fields.pop("stream_id", None)
        if fields.pop("background", None):
            raise ServingError(
                ErrorKind.UNSUPPORTED,
                "'background' is not supported on a WebSocket: use HTTP.",
                param="background",
            )
        if fields.pop("stream", True) is False:
            raise ServingError(
                ErrorKind.UNSUPPORTED, "A WebSocket always has the stream.", param="stream"
            )
        return {**fields, "stream": True}


def read_message(message: Message, limits: Limits) -> SocketMessage:
    """Returns what a message asks for, or what is wrong with it."""
    text: str | None = message.get("text")
    data: bytes = message["bytes"] if text is None else text.encode()
    if len(data) > limits.body_bytes:
        most = f"A message may have {limits.body_bytes} bytes at most."
        return SocketMessage({}, len(data), fault=ServingError(ErrorKind.BODY_TOO_LARGE, most))
    try:
        fields = decode_object(data, limits)
    except ServingError as error:
        return SocketMessage({}, len(data), fault=error)
    stream_id = fields.get("stream_id")
    if stream_id is None:
        return SocketMessage(fields, len(data))
    if isinstance(stream_id, str) and 0 < len(stream_id) <= STREAM_ID_MAX:
        return SocketMessage(fields, len(data), stream_id)
    wrong = f"'stream_id' must be a string of 1 to {STREAM_ID_MAX} characters."
    fault = ServingError(ErrorKind.INVALID_VALUE, wrong, param="stream_id")
    return SocketMessage(fields, len(data), fault=fault)


def error_event(error: ServingError) -> bytes:
    """Returns the message that tells of a request that has failed before its response."""
    mapping = error.kind.value
    told: Json = {
        "type": mapping.type,
        "code": mapping.code,
        "message": error.message,
        "param": error.param,
    }
    if error.retry_after_seconds is not None:
        told["headers"] = {"retry-after": f"{max(1, math.ceil(error.retry_after_seconds))}"}
    return msgspec.json.encode({"type": "error", "status": mapping.http_status, "error": told})


def not_steered(asked: Json) -> bytes:
    """Returns the message that gives input back which cannot be put into a running response."""
    return msgspec.json.encode(
        {
            "type": "response.steer.failed",
            "sequence_number": 0,
            "steer": {
                "previous_response_id": asked.get("previous_response_id"),
                "input": asked.get("input"),
            },
            "error": {
                "type": "invalid_request_error",
                "code": "steering_not_supported",
                "message": "A running response takes no more input. Send it when it has ended.",
            },
        }
    )

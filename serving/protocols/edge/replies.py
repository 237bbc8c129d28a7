"""Whole responses: a status, headers and a body, as two ASGI messages."""

from __future__ import annotations

import math

import msgspec
from starlette.types import Send

from serving.errors import ServingError

Headers = list[tuple[bytes, bytes]]


async def reply(
    send: Send, status: int, body: bytes, content_type: bytes, extra: Headers | None = None
) -> None:
    """Sends a response with a length."""
    headers: Headers = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        *(extra or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def reply_json(
    send: Send, value: object, status: int = 200, extra: Headers | None = None
) -> None:
    """Sends `value` as JSON."""
    await reply(send, status, msgspec.json.encode(value), b"application/json", extra)


async def reply_error(
    send: Send, error: ServingError, body: dict[str, object], extra: Headers | None = None
) -> None:
    """Sends an error described by `body`, with Retry-After (whole seconds) where it has one."""
    headers = list(extra or [])
    if error.retry_after_seconds is not None:
        seconds = max(1, math.ceil(error.retry_after_seconds))
        headers.append((b"retry-after", b"%d" % seconds))
    await reply_json(send, body, error.kind.value.http_status, headers)

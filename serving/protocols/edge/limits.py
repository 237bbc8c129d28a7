"""Bounds what a request may send before anything reads it: address, headers, bytes, time."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import ErrorKind, ServingError

DISCARD_SECONDS = 1.0


class RequestLimits:
    """ASGI middleware. Raises ServingError, from itself or from the `receive` that it hands on.

    NOT_FOUND for an address with control characters (a route would match `/v1/models%0a`, too),
    HEADERS_TOO_LARGE, BODY_TOO_LARGE (by the declared length, or by what arrives without one),
    BODY_TIMEOUT for a body that is not complete in time, CLIENT_CLOSED for one that never will be.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        header_bytes: int,
        header_fields: int,
        body_bytes: int,
        body_seconds: float,
    ) -> None:
        self._app = app
        self._header_bytes = header_bytes
        self._header_fields = header_fields
        self._body_bytes = body_bytes
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection of any kind."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if not scope["path"].isprintable():
            raise ServingError(ErrorKind.NOT_FOUND, "There is nothing at this address.")
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > self._header_fields or size > self._header_bytes:
            raise ServingError(
                ErrorKind.HEADERS_TOO_LARGE,
                f"The headers may have {self._header_fields} fields and {self._header_bytes} "
                "bytes at most.",
            )
        if scope["type"] == "websocket":  # its messages are bounded where they are read
            await self._app(scope, receive, send)
            return
        for name, value in headers:
            if name == b"content-length" and value.isdigit() and int(value) > self._body_bytes:
                raise self._too_large()
        await self._app(scope, BoundedBody(self, receive).receive, send)

    def _too_large(self) -> ServingError:
        return ServingError(
            ErrorKind.BODY_TOO_LARGE, f"The body may have {self._body_bytes} bytes at most."
        )


class BoundedBody:
    """The `receive` of one request, bounded until its body is complete."""

    def __init__(self, limits: RequestLimits, receive: Receive) -> None:
        self._limits = limits
        self._receive = receive
        self._due = asyncio.get_running_loop().time() + limits._body_seconds
        self._left_bytes = limits._body_bytes
        self._complete = False

    async def receive(self) -> Message:
        """Returns the next message of the client."""
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._due):
                message = await self._receive()
        except TimeoutError:
            raise ServingError(
                ErrorKind.BODY_TIMEOUT,
                f"The body was not complete after {self._limits._body_seconds:g} seconds.",
            ) from None
        if message["type"] == "http.disconnect":
            raise ServingError(ErrorKind.CLIENT_CLOSED, "The client closed the connection.")
        self._left_bytes -= len(message.get("body", b""))
        if self._left_bytes < 0:
            raise self._limits._too_large()
        self._complete = not message.get("more_body", False)
        return message


async def discard_body(receive: Receive) -> None:
    """Takes what comes of a body for a moment: a client that still writes may miss its answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while (message := await receive())["type"] == "http.request":
                if not message.get("more_body", False):
                    return


async def read_body(receive: Receive) -> bytes:
    """Returns the whole body of a request. Raises what the bounded `receive` raises."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)

"""A load client for streams that costs little itself: raw sockets, it only counts events.

It must not take the time of the server that it measures, so it decodes nothing: it counts the
lines that begin with `data:` and notes when bytes came.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

EVENT = b"data: "
LAST = b"0\r\n\r\n"
TAIL_BYTES = 1024
STATUS_BYTES = 15


@dataclass(slots=True)
class StreamResult:
    """What one stream brought. Times are of the monotonic clock, in seconds."""

    events: int = 0
    reads: int = 0
    sent: float = 0.0
    first: float = 0.0
    last: float = 0.0
    status: bytes = b""
    tail: bytes = b""
    arrivals: list[float] = field(default_factory=list)


class StreamClient(asyncio.Protocol):
    """Sends one request and counts its events; `done` ends with the response.

    The request is sent when the connection is made, or with `held` when `send` is called.
    """

    def __init__(self, request: bytes, *, keep_arrivals: bool = False, held: bool = False) -> None:
        self.result = StreamResult()
        self.done: asyncio.Future[StreamResult] = asyncio.get_running_loop().create_future()
        self._request = request
        self._keep_arrivals = keep_arrivals
        self._held = held
        self._carry = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, first."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
            if not self._held:
                self.send()

    def send(self) -> None:
        """Sends the request."""
        if self._transport is not None:
            self.result.sent = time.monotonic()
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop with what has arrived."""
        result = self.result
        now = time.monotonic()
        if len(result.status) < STATUS_BYTES:
            result.status = (result.status + data)[:STATUS_BYTES]
        if self._keep_arrivals:
            result.arrivals.append(now)
        result.reads += 1
        text = self._carry + data
        events = text.count(EVENT)
        self._carry = text[-(len(EVENT) - 1) :]
        if events:
            result.events += events
            result.first = result.first or now
            result.last = now
        result.tail = (result.tail + data[-TAIL_BYTES:])[-TAIL_BYTES:]
        if result.tail.endswith(LAST) and self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop, last."""
        if not self.done.done():
            self.done.set_result(self.result)


def chat_request(port: int, body: dict[str, Any]) -> bytes:
    """Returns the bytes of a POST to the chat endpoint."""
    payload = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


async def load(
    port: int, requests: list[bytes], *, keep_arrivals: bool = False, held: bool = False
) -> list[StreamResult]:
    """Sends all requests, each on its own connection, and returns what they brought.

    Each is sent as soon as its connection is made, or with `held` when all of them are.
    """
    loop = asyncio.get_running_loop()
    clients = [
        await loop.create_connection(
            lambda request=request: StreamClient(  # type: ignore[misc]
                request, keep_arrivals=keep_arrivals, held=held
            ),
            "127.0.0.1",
            port,
        )
        for request in requests
    ]
    if held:
        for _, client in clients:
            client.send()
    return list(await asyncio.gather(*(client.done for _, client in clients)))

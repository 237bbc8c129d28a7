"""The parent's end of the connection to a child process: typed messages in, typed messages out."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar, cast

import msgspec

from serving.boundary.framing import FrameError, FrameReader, encode

Incoming = TypeVar("Incoming")
Loaded = TypeVar("Loaded")


class Link(asyncio.Protocol, ABC, Generic[Incoming, Loaded]):
    """One connection, from its first byte to its end.

    `ready` has a result once the child can be asked. `closed` has one when the connection is over:
    why, or "" for an ordinary end. Neither ever holds an exception.
    """

    def __init__(self, incoming: Any) -> None:
        """`incoming` is the type of what comes in: one, or a union."""
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Loaded] = self._loop.create_future()
        self.closed: asyncio.Future[str] = self._loop.create_future()
        self.heard = 0
        """Grows with every arrival: shows that the child is alive."""
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._decoder: msgspec.msgpack.Decoder[Incoming] = msgspec.msgpack.Decoder(incoming)

    @abstractmethod
    def take(self, message: Incoming) -> None:
        """Takes a message that has arrived."""

    @abstractmethod
    def lose(self) -> None:
        """Ends all that waits for an answer. Called once, when the connection is over."""

    @property
    def is_open(self) -> bool:
        """True until the connection ends."""
        return self._transport is not None and not self.closed.done()

    def write(self, *messages: Any) -> None:
        """Sends messages in one write, or nothing when the connection is over."""
        if self._transport is not None and not self.closed.done():
            self._transport.write(b"".join(map(encode, messages)))

    def close(self, why: str = "") -> None:
        """Ends the connection at once; the child leaves when it sees that."""
        first = not self.closed.done()
        if first:
            self.closed.set_result(why)
        if self._transport is not None:
            self._transport.abort()
        if first:
            self.lose()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, first."""
        # A stream transport: uvloop's has the methods of asyncio.Transport, not its ancestry.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop with what has arrived."""
        self.heard += 1
        try:
            for payload in self._reader.feed(data):
                self.take(self._decoder.decode(payload))
        except (FrameError, msgspec.MsgspecError) as error:
            self.close(f"unreadable message: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop, last."""
        # A reset is how the end of a killed process looks; it says no more than an ordinary end.
        self.close()

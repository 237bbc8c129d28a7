"""uvicorn's HTTP protocol with a deadline for each request's head and a bound on connections."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.types import Scope

from serving.errors import ErrorKind, ServingError
from serving.protocols.edge.old_clients import ProtocolForOldClients
from serving.protocols.edge.wire.slots import RESERVE, Closed, Slots

RESERVE_SECONDS: Final = 2.0
"""How long a connection above the bound has for its request."""

_CROWDED: Final = "llmserve.crowded"
_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedProtocol(ProtocolForOldClients):
    """One connection, which no client holds for ever.

    It is closed when a head is not complete `head_seconds` after the connection, or after the first
    byte behind the last request; when its client reads nothing for `slow_client_seconds`; and while
    it has no request, whenever another needs its place. One above the bound has one request, which
    `is_crowded`.
    """

    def __init__(
        self,
        *arguments: Any,
        slots: Slots,
        head_seconds: float,
        slow_client_seconds: float,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self._slots = slots
        self._head_seconds = head_seconds
        self._slow_client_seconds = slow_client_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._crowded = False
        self._in_head = False
        self._upgraded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Finds a place for the connection, or closes it."""
        super().connection_made(transport)
        above = self._slots.above(len(self.connections))
        if above > RESERVE:
            self._slots.count(Closed.FULL)
            self.connections.discard(self)
            transport.abort()
            return
        if above > 0:
            self._crowded = True
            self.app_state = {**self.app_state, _CROWDED: True}  # for an upgraded connection, too
            self._head_seconds = min(self._head_seconds, RESERVE_SECONDS)
        self._slots.wait(self, silent=True)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Reads; whatever is no whole head begins its time."""
        super().data_received(data)
        if self._waits() and not self._upgraded:
            self._start_timer()

    def handle_websocket_upgrade(self) -> None:
        """Hands the connection over; it has deadlines of its own then."""
        self._upgraded = True
        super().handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        """Notes that a head has begun."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Ends the time of the head."""
        self._in_head = False
        self._stop_timer()
        self._slots.leave(self)
        before = self.cycle
        super().on_headers_complete()
        if self._crowded and self.cycle is not before:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        """Waits for the next request, or for the client to read the last of this."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._start_timer()
        elif self._waits():
            self._slots.wait(self, silent=False)

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that had no request for too long."""
        super().timeout_keep_alive_handler()
        self._start_timer()

    def pause_writing(self) -> None:
        """Gives the client time to read."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._slow_client_seconds, self._cut_off)

    def resume_writing(self) -> None:
        """Ends that time."""
        super().resume_writing()
        self._stop_write_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives the place back."""
        self._stop_timer()
        self._stop_write_timer()
        self._slots.leave(self)
        super().connection_lost(exc)

    def give_way(self) -> None:
        """Closes a connection without a request; it counts no more."""
        self.connections.discard(self)
        self.transport.close()

    def _waits(self) -> bool:
        """Returns whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._head_seconds, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _late(self) -> None:
        """Closes a connection without a whole head; breaks one off whose end is not read."""
        self._timer = None
        if self.transport.is_closing():
            self._cut_off()
            return
        self._slots.count(Closed.SLOW_HEAD)
        if self._in_head:
            self.transport.write(_TOO_SLOW)
        self.transport.close()
        self._start_timer()

    def _cut_off(self) -> None:
        self._slots.count(Closed.SLOW_READER)
        self.transport.abort()


def is_crowded(scope: Scope) -> bool:
    """Returns whether a request came over a connection above the bound."""
    return _CROWDED in scope.get("state", ())


def crowded() -> ServingError:
    """Returns what is told of a request above the bound of connections."""
    return ServingError(
        ErrorKind.OVERLOADED,
        "The server has as many connections as it can hold. Try again later.",
        retry_after_seconds=1.0,
    )

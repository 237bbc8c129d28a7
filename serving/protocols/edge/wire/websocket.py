"""One WebSocket's frames: read a few at a time, and not too many that carry nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import islice
from typing import Any

import wsproto
from uvicorn._types import WebSocketEvent
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

FRAMES_AT_ONCE = 32
"""What is read before others get their turn: about a millisecond."""

IDLE_FRAMES = 500
"""Frames that carry nothing, which a connection may send in a row."""

IDLE_FRAMES_PER_SECOND = 50.0
"""How fast it may send them for ever."""

SMALL_FRAGMENT_BYTES = 512
"""A shorter piece of a message that goes on carries as good as nothing."""

_LINGER_SECONDS = 1.0
"""For the client to read why it is left; what it sends meanwhile is thrown away."""


class SocketProtocol(WSProtocol):
    """uvicorn's protocol, which answers pings by itself. What differs:

    - Of what has arrived a few frames are handled, at most one message among them, and the rest
      when the event loop has come round. Reading rests while something is left.
    - Pings, pongs, empty messages and small fragments have a rate; more of them close the
      connection with 1008.
    """

    conn: _Paced

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn = _Paced(self._charge)
        self._allowed = float(IDLE_FRAMES)
        self._charged = self.loop.time()
        self._scheduled = False
        self._left = False
        """The client has been told to go; what it sends is thrown away."""

    def data_received(self, data: bytes) -> None:
        """Takes what has arrived."""
        if not self._left:
            super().data_received(data)

    def handle_events(self) -> None:
        """Handles the next frames."""
        self._scheduled = False
        if self.read_paused or self.disconnected or self._left:
            return  # `receive` goes on, or nobody
        super().handle_events()
        more = self.conn.more and not self._left
        if more and not self.read_paused:
            self._schedule()
        if self.transport.is_closing():
            return
        if more or self.read_paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    async def receive(self) -> WebSocketEvent:
        """Returns the next message. Those behind it are read once the event loop has come round."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._schedule()
        return message

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self.handle_events)

    def _charge(self, event: Event) -> None:
        """Counts a frame that carries nothing, and leaves a client that sends too many."""
        match event:
            case Ping() | Pong():
                pass
            case TextMessage() | BytesMessage():
                whole = event.message_finished and event.data
                if whole or not event.frame_finished or len(event.data) >= SMALL_FRAGMENT_BYTES:
                    return
            case _:
                return
        now = self.loop.time()
        earned = (now - self._charged) * IDLE_FRAMES_PER_SECOND
        self._allowed = min(IDLE_FRAMES, self._allowed + earned) - 1
        self._charged = now
        if self._allowed < 0 and not self._left:
            self._leave()

    def _leave(self) -> None:
        """Ends the connection for what its client does."""
        self._left = True
        if self.close_sent or self.transport.is_closing():
            return
        self.close_sent = True
        reason = "too many frames without content"
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1008, "reason": reason})
        self.transport.write(self.conn.send(CloseConnection(code=1008, reason=reason)))
        self.close_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)


class _Paced(wsproto.WSConnection):
    """A server's end whose events come a few at a time. `charge` is called with each."""

    def __init__(self, charge: Callable[[Event], None]) -> None:
        super().__init__(wsproto.ConnectionType.SERVER)
        self._charge = charge
        self.more = False
        """There may be events that have not been given yet."""

    def events(self) -> Generator[Event]:
        """Yields the next events, the last of them at the latest where a message ends."""
        self.more = True
        given = 0
        for event in islice(super().events(), FRAMES_AT_ONCE):
            given += 1
            self._charge(event)
            yield event
            if getattr(event, "message_finished", False):
                return
        self.more = given == FRAMES_AT_ONCE

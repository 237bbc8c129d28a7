"""The engine process's end of the connection: what has come in, and what must go out."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from queue import SimpleQueue

import msgspec

from serving.boundary.framing import FrameError, encode, receive
from serving.boundary.messages import FromEngine, ToEngine

MAX_UNSENT_BYTES = 16 * 1024 * 1024
"""How far the engine may run ahead of an API process that does not read, before it waits."""


class Inbox:
    """Reads messages on a thread of its own, so that the engine loop never waits for the socket.

    `on_left` is called on that thread, once, when the other side is gone or sends what cannot be
    read; its argument says why ("" for an ordinary end).
    """

    def __init__(self, end: socket.socket, on_left: Callable[[str], None]) -> None:
        self._end = end
        self._on_left = on_left
        self._messages: SimpleQueue[ToEngine] = SimpleQueue()

    def start(self) -> None:
        """Starts reading."""
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def put(self, message: ToEngine) -> None:
        """Adds a message as if it had been read."""
        self._messages.put(message)

    def drain(self, *, wait: bool) -> list[ToEngine]:
        """Returns what has arrived, in order; with `wait`, sleeps until there is something."""
        messages = [self._messages.get()] if wait else []
        while not self._messages.empty():
            messages.append(self._messages.get_nowait())
        return messages

    def _read(self) -> None:
        decoder = msgspec.msgpack.Decoder(ToEngine)
        why = ""
        try:
            for payload in receive(self._end):
                self._messages.put(decoder.decode(payload))
        except ConnectionError:
            why = ""  # A reset is how a killed parent can look: an ordinary end.
        except (FrameError, msgspec.MsgspecError, OSError) as error:
            why = f"{type(error).__name__}: {error}"
        self._on_left(why)


class Outbox:
    """Sends without waiting for the other side, up to `MAX_UNSENT_BYTES`."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._unsent = bytearray()

    def send(self, message: FromEngine) -> None:
        """Sends a message, or keeps what the socket does not take now.

        Waits only when more than `MAX_UNSENT_BYTES` are kept. Raises OSError when the other side
        is gone.
        """
        self._unsent += encode(message)
        try:
            sent = self._end.send(self._unsent, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        del self._unsent[:sent]
        if len(self._unsent) > MAX_UNSENT_BYTES:
            self.flush()

    def flush(self) -> None:
        """Waits until everything is sent. Raises OSError when the other side is gone."""
        if self._unsent:
            self._end.sendall(self._unsent)
            self._unsent.clear()

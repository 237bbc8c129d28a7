"""How messages travel: a 4-byte little-endian length, then that many bytes of msgpack."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import msgspec

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""The largest message either side accepts: some 12 million token ids, far above any prompt."""

SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
"""What is asked of the kernel for each direction; it may give less."""

RECEIVE_BYTES = 1024 * 1024
"""The most that is read at once."""

_LENGTH_BYTES = 4


class FrameError(ValueError):
    """Bytes that are no frame. The connection cannot be used any more."""


def frame(payload: bytes) -> bytes:
    """Returns one frame that holds `payload`. Raises FrameError when it is empty or too large."""
    size = len(payload)
    if not 0 < size <= MAX_FRAME_BYTES:
        raise FrameError(f"a message of {size} bytes; 1 to {MAX_FRAME_BYTES} can travel")
    return size.to_bytes(_LENGTH_BYTES, "little") + payload


def encode(message: Any) -> bytes:
    """Returns one frame that holds `message`. Raises FrameError when it is too large."""
    return frame(msgspec.msgpack.encode(message))


def send(end: socket.socket, message: Any) -> None:
    """Sends a message, and waits until the other side has taken it. Raises OSError, FrameError."""
    end.sendall(encode(message))


def receive(end: socket.socket) -> Iterator[bytes]:
    """Yields payloads until the other side closes. Raises OSError, FrameError."""
    reader = FrameReader()
    while data := end.recv(RECEIVE_BYTES):
        yield from reader.feed(data)


def widen(end: socket.socket) -> None:
    """Asks for large kernel buffers, so that a short pause of one side does not stop the other."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)


class FrameReader:
    """Cuts a byte stream into payloads, however the stream was split on its way."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._wanted_bytes = _LENGTH_BYTES

    def feed(self, data: bytes) -> list[bytes]:
        """Returns the payloads that `data` completes, in order; keeps what is incomplete.

        Raises FrameError for a length that no sender writes.
        """
        if not self._rest:
            payloads, used = self._cut(data)
            if used < len(data):
                self._rest += data[used:]
            return payloads
        self._rest += data
        if len(self._rest) < self._wanted_bytes:
            return []
        payloads, used = self._cut(bytes(self._rest))
        del self._rest[:used]
        return payloads

    def _cut(self, data: bytes) -> tuple[list[bytes], int]:
        """Returns the whole payloads of `data` and how many of its bytes they took."""
        payloads: list[bytes] = []
        start, end = 0, len(data)
        self._wanted_bytes = _LENGTH_BYTES
        while end - start >= _LENGTH_BYTES:
            body = start + _LENGTH_BYTES
            size = int.from_bytes(data[start:body], "little")
            if not 0 < size <= MAX_FRAME_BYTES:
                raise FrameError(f"a frame of {size} bytes; 1 to {MAX_FRAME_BYTES} can travel")
            if end - body < size:
                self._wanted_bytes = _LENGTH_BYTES + size
                break
            payloads.append(data[body : body + size])
            start = body + size
        return payloads, start

"""The events of a stream that outlives its readers: written once, read from any place."""

from __future__ import annotations

import asyncio

from serving.errors import ServingError
from serving.events import ChoiceEvent
from serving.generation.pipeline import Events
from serving.protocols.edge.presenters import Streamed

_END = b"\n\n"
"""Ends a server-sent event; JSON on one line never holds it."""


class EventLog:
    """The encoded events of one response, each at the place of its sequence number."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._ended = False
        self._grown = asyncio.Event()

    def add(self, encoded: bytes) -> None:
        """Writes events, encoded one after the other."""
        self._events += split_events(encoded)
        self._wake()

    def end(self) -> None:
        """Lets the readers end after what is written. Nothing may be written then."""
        self._ended = True
        self._wake()

    def since(self, number: int) -> tuple[bytes, int]:
        """Returns the events from `number` on, and the number of the next one to ask for."""
        return b"".join(self._events[number:]), max(number, len(self._events))

    async def ticks(self) -> Events:
        """Yields nothing at once, and again when there is more, until the end."""
        while True:
            grown = self._grown
            yield []
            if self._ended:
                return
            await grown.wait()

    def _wake(self) -> None:
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()


class LogReader(Streamed):
    """Presents a log from the event `start` on, as it grows."""

    def __init__(self, log: EventLog, start: int) -> None:
        self._log = log
        self._next = start

    def rewind(self) -> None:
        """Goes back to the first event of the log."""
        self._next = 0

    def begin(self) -> bytes:
        """Returns nothing: the log has the beginning."""
        return b""

    def encode(self, events: list[ChoiceEvent]) -> bytes:
        """Returns what is new in the log."""
        new, self._next = self._log.since(self._next)
        return new

    def end(self) -> bytes:
        """Returns the rest."""
        return self.encode([])

    def fail(self, error: ServingError) -> bytes:
        """Returns nothing: the failure of a response is in its log."""
        return b""


def split_events(encoded: bytes) -> list[bytes]:
    """Returns server-sent events one by one."""
    return [event + _END for event in encoded.split(_END)[:-1]]

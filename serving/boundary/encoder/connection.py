"""The API process's end of a connection to one encoder process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import msgspec

from serving.boundary.encoder.messages import (
    Drop,
    Dropped,
    Encode,
    FromEncoder,
    Input,
    Loaded,
    Part,
    Refused,
    ToEncoder,
)
from serving.boundary.framing import FrameError, FrameReader, frame
from serving.boundary.messages import Fatal
from serving.errors import ErrorKind, ServingError

SILENT_SECONDS = 60.0
"""How long an encoder may be silent over its work: a batch takes a second, of a large one some."""
RETRY_AFTER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Vectors:
    """The answer to one request: little-endian float32, one `bytes` an input, and its tokens."""

    vectors: list[bytes]
    tokens: int


@dataclass(slots=True)
class _Work:
    """A request that is under way."""

    answer: asyncio.Future[Vectors]
    missing: int
    vector_bytes: int
    tokens: int = 0
    vectors: list[bytes] = field(default_factory=list)


class TooLongError(Exception):
    """An input (`place`), or all of them (-1), has more tokens than may be."""

    def __init__(self, place: int, tokens: int) -> None:
        super().__init__(f"{tokens} tokens at {place}")
        self.place = place
        self.tokens = tokens


class EncoderConnection(asyncio.Protocol):
    """One connection, from its first byte to its end.

    `ready` is set once the encoder is loaded, and when the connection is over: `why` says then what
    is known of the reason. `on_end` is called once, when it is over.
    """

    def __init__(self, on_end: Callable[[EncoderConnection], None]) -> None:
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self.ready = asyncio.Event()
        self.over = False
        self.why = ""
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._decoder = msgspec.msgpack.Decoder(FromEncoder)
        self._work: dict[int, _Work] = {}
        self._next_id = 1
        self._alarm: asyncio.TimerHandle | None = None

    async def encode(
        self, inputs: list[Input], dimensions: int, truncate_tokens: int | None
    ) -> Vectors:
        """Returns a vector of `dimensions` for each input.

        Raises TooLongError, and ServingError (ENGINE_UNAVAILABLE) when the encoder is lost.
        Cancelling takes the work back.
        """
        if self.over:
            raise lost_error()
        request_id, self._next_id = self._next_id, self._next_id + 1
        answer: asyncio.Future[Vectors] = self._loop.create_future()
        work = _Work(answer, len(inputs), 4 * dimensions, vectors=[b""] * len(inputs))
        self._work[request_id] = work
        self._watch()
        self._write(Encode(request_id, inputs, dimensions, truncate_tokens))
        try:
            return await answer
        except asyncio.CancelledError:
            # It counts as queued until the encoder says that it is not.
            if request_id in self._work:
                self._write(Drop(request_id))
            raise

    @property
    def queued(self) -> int:
        """How many requests the encoder has, those among them that are being taken back."""
        return len(self._work)

    def close(self, why: str = "") -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()
        self._end(why)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, first."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop with what has arrived."""
        self._watch()
        try:
            for payload in self._reader.feed(data):
                self._take(self._decoder.decode(payload))
        except (FrameError, msgspec.MsgspecError) as error:
            self.close(f"unreadable message: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop, last."""
        self._end("it closed the connection")

    def _take(self, message: FromEncoder) -> None:
        match message:
            case Loaded():
                self.ready.set()
            case Fatal():
                self.close(message.message)
            case Part():
                self._add(message)
            case Dropped():
                self._work.pop(message.id, None)
            case Refused():
                work = self._work.pop(message.id, None)
                if work is not None and not work.answer.done():
                    work.answer.set_exception(TooLongError(message.place, message.tokens))

    def _add(self, part: Part) -> None:
        work = self._work.get(part.id)
        if work is None or work.answer.done():
            return  # Taken back: the encoder had not read that yet.
        for row, place in enumerate(part.places):
            start = row * work.vector_bytes
            work.vectors[place] = part.vectors[start : start + work.vector_bytes]
        work.tokens += part.tokens
        work.missing -= len(part.places)
        if not work.missing:
            del self._work[part.id]
            work.answer.set_result(Vectors(work.vectors, work.tokens))

    def _watch(self) -> None:
        """Begins to wait for the next sign of life."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_later(SILENT_SECONDS, self._look)

    def _look(self) -> None:
        if self._work:
            self.close(f"it answered nothing for {SILENT_SECONDS:g} seconds")

    def _end(self, why: str) -> None:
        if self.over:
            return
        self.over, self.why = True, why
        if self._alarm is not None:
            self._alarm.cancel()
        self.ready.set()
        work, self._work = self._work, {}
        for lost in work.values():
            if not lost.answer.done():
                lost.answer.set_exception(lost_error())
        self._on_end(self)

    def _write(self, message: ToEncoder) -> None:
        if self._transport is not None and not self.over:
            self._transport.write(frame(msgspec.msgpack.encode(message)))


def lost_error() -> ServingError:
    """Returns what requests are told while there is no encoder."""
    return ServingError(
        ErrorKind.ENGINE_UNAVAILABLE,
        "The encoder stopped, or does not start. Try again.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )

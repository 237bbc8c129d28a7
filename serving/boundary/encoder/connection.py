"""The API process's end of a connection to one encoder process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from serving.boundary.encoder.messages import (
    Drop,
    Dropped,
    Encode,
    FromEncoder,
    Input,
    Loaded,
    Part,
    Refused,
)
from serving.boundary.link import Link
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


class EncoderConnection(Link[FromEncoder, Loaded]):
    """The link to one encoder process, which may not be silent for long over its work."""

    def __init__(self) -> None:
        super().__init__(FromEncoder)
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
        if not self.is_open:
            raise lost_error()
        request_id, self._next_id = self._next_id, self._next_id + 1
        answer: asyncio.Future[Vectors] = self._loop.create_future()
        work = _Work(answer, len(inputs), 4 * dimensions, vectors=[b""] * len(inputs))
        self._work[request_id] = work
        self._watch()
        self.write(Encode(request_id, inputs, dimensions, truncate_tokens))
        try:
            return await answer
        except asyncio.CancelledError:
            # It counts as queued until the encoder says that it is not.
            if request_id in self._work:
                self.write(Drop(request_id))
            raise

    @property
    def queued(self) -> int:
        """How many requests the encoder has, those among them that are being taken back."""
        return len(self._work)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop with what has arrived."""
        self._watch()
        super().data_received(data)

    def take(self, message: FromEncoder) -> None:
        """Takes a message that has arrived."""
        match message:
            case Loaded():
                if not self.ready.done():
                    self.ready.set_result(message)
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

    def lose(self) -> None:
        """Ends every request that is under way."""
        if self._alarm is not None:
            self._alarm.cancel()
        work, self._work = self._work, {}
        for lost in work.values():
            if not lost.answer.done():
                lost.answer.set_exception(lost_error())

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


def lost_error() -> ServingError:
    """Returns what requests are told while there is no encoder."""
    return ServingError(
        ErrorKind.ENGINE_UNAVAILABLE,
        "The encoder stopped, or does not start. Try again.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )

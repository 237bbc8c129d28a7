"""The API process's end of a connection to one engine process.

The cost of a token here is what the whole service pays for every token of every stream, so there is
no task and no queue a stream: outputs are appended to a list, and a stream that waits is woken by
one future however many outputs a step brought.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from serving.boundary.framing import FrameError, FrameReader, frame
from serving.boundary.messages import (
    Abort,
    Fatal,
    FromEngine,
    Generate,
    GetStats,
    Output,
    Ready,
    Shutdown,
    Stats,
    Step,
    ToEngine,
)
from serving.boundary.sampling import Sampling
from serving.errors import ErrorKind, ServingError

MAX_UNSENT_BYTES = 64 * 1024 * 1024
"""Requests that the engine has not read. Above it new ones are refused: the engine is stuck."""


class Stream:
    """The outputs of the sequences of one job; a `SequenceStream`.

    What a reader leaves unread is kept, one output a token at most and some 250 bytes each, so
    `max_tokens` bounds it.
    """

    __slots__ = ("_arrived", "_connection", "_ids", "_loop", "_lost", "_sequences", "_waiter")

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._ids: set[int] = set()
        self._sequences: list[int] = []
        self._arrived: list[tuple[int, Output]] = []
        self._waiter: asyncio.Future[None] | None = None
        self._lost = False

    async def receive(self) -> list[tuple[int, Output]]:
        """Waits, then returns every (choice, output) that has arrived since the last call.

        An empty list: every sequence has finished, or the stream was closed. Raises ServingError
        (ENGINE_UNAVAILABLE) when the engine was lost. One reader at a time; a cancelled call
        loses nothing.
        """
        while not self._arrived:
            if self._lost:
                raise lost_error()
            if not self._ids:
                return []
            self._waiter = self._loop.create_future()
            await self._waiter
        arrived, self._arrived = self._arrived, []
        return arrived

    @property
    def suspended(self) -> bool:
        """True while the engine's last statistics name a sequence of this stream as set aside."""
        stats = self._connection.last_stats
        return stats is not None and not self._ids.isdisjoint(stats.suspended)

    def cancel(self, choice: int) -> None:
        """Aborts one sequence; nothing more of it arrives. A finished one is left as it is."""
        sequence_id = self._sequences[choice]
        if sequence_id in self._ids:
            self._ids.discard(sequence_id)
            self._connection.forget({sequence_id})
            self._arrived = [pair for pair in self._arrived if pair[0] != choice]
            if not self._ids:
                self._wake()

    def close(self) -> None:
        """Aborts what is unfinished and forgets the sequences. Idempotent, never waits."""
        if self._ids:
            ids, self._ids = self._ids, set()
            self._connection.forget(ids)
        self._arrived = []
        self._wake()

    def start(self, sequence_id: int) -> None:
        """Counts a sequence of this stream as running. For the connection only."""
        self._ids.add(sequence_id)
        self._sequences.append(sequence_id)

    def push(self, choice: int, output: Output) -> None:
        """Adds an output and wakes the reader. For the connection only."""
        if output.finish:
            self._ids.discard(output.id)
        self._arrived.append((choice, output))
        if self._waiter is not None:
            self._wake()

    def lose(self) -> None:
        """Tells the reader that no more will come. For the connection only."""
        self._lost = bool(self._ids)
        self._ids = set()
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def lost_error() -> ServingError:
    """Returns what the streams of an engine that died are told."""
    return ServingError(
        ErrorKind.ENGINE_UNAVAILABLE,
        "The engine stopped while it worked on this request. It is being restarted; try again.",
        retry_after_seconds=5.0,
    )


class Connection(asyncio.Protocol):
    """One connection, from its first byte to its end.

    `ready` has a result once the engine is loaded. `closed` has one when the connection is over:
    what was wrong with its messages, or "" when they were fine. Neither ever holds an exception.
    `on_end` is called first of all when it is over.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Ready] = self._loop.create_future()
        self.closed: asyncio.Future[str] = self._loop.create_future()
        self.fatal: Fatal | None = None
        self.heard = 0
        """Grows with every arrival: shows that the engine loop turns."""
        self.last_stats: Stats | None = None
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self._encoder = msgspec.msgpack.Encoder()
        self._routes: dict[int, tuple[Stream, int]] = {}
        self._next_id = 1
        self._asked: deque[asyncio.Future[Stats] | None] = deque()

    @property
    def is_open(self) -> bool:
        """True until the connection ends."""
        return self._transport is not None and not self.closed.done()

    def open(
        self,
        prompt: list[int],
        samplings: Sequence[Sampling],
        *,
        priority: float = 0.5,
        cache_salt: str = "",
    ) -> Stream:
        """Starts one sequence for each sampling, in one write; choice i has sampling i.

        Raises ServingError: ENGINE_UNAVAILABLE when the connection is over, OVERLOADED when the
        engine has stopped reading.
        """
        transport = self._transport
        if transport is None or self.closed.done():
            raise lost_error()
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            raise ServingError(
                ErrorKind.OVERLOADED,
                "The engine does not take new requests now. Try again.",
                retry_after_seconds=5.0,
            )
        stream = Stream(self, self._loop)
        frames = []
        for choice, sampling in enumerate(samplings):
            sequence_id, self._next_id = self._next_id, self._next_id + 1
            frames.append(
                self._encode(Generate(sequence_id, prompt, sampling, priority, cache_salt))
            )
            self._routes[sequence_id] = (stream, choice)
            stream.start(sequence_id)
        transport.write(b"".join(frames))
        return stream

    def forget(self, ids: set[int]) -> None:
        """Aborts sequences; nothing of them is delivered any more."""
        for sequence_id in ids:
            self._routes.pop(sequence_id, None)
        self._write(*(Abort(sequence_id) for sequence_id in ids))

    async def stats(self) -> Stats:
        """Asks the engine loop. Raises ServingError (ENGINE_UNAVAILABLE) when it is gone."""
        if not self.is_open:
            raise lost_error()
        answer: asyncio.Future[Stats] = self._loop.create_future()
        self._asked.append(answer)
        self._write(GetStats())
        return await answer

    def ping(self) -> None:
        """Asks for a sign of life, unless a question is still unanswered."""
        if not self._asked and self.is_open:
            self._asked.append(None)
            self._write(GetStats())

    def shutdown(self) -> None:
        """Asks the engine process to leave."""
        self._write(Shutdown())

    def close(self) -> None:
        """Ends the connection at once; the engine process leaves when it sees that."""
        if self._transport is not None:
            self._transport.abort()
        self._end("")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, first."""
        # A stream transport: uvloop's has the methods of asyncio.Transport, not its ancestry.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop with what has arrived."""
        self.heard += 1
        try:
            for payload in self._reader.feed(data):
                message = self._decoder.decode(payload)
                if isinstance(message, Step):
                    self._deliver(message.outputs)
                else:
                    self._take(message)
        except (FrameError, msgspec.MsgspecError) as error:
            self._end(f"unreadable message: {error}")
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop, last."""
        # A reset is how the end of a killed process looks; it says no more than an ordinary end.
        self._end("")

    def _deliver(self, outputs: list[Output]) -> None:
        routes = self._routes
        for output in outputs:
            route = routes.get(output.id)
            if route is None:
                continue  # Aborted: the engine had not read that yet.
            if output.finish:
                del routes[output.id]
            route[0].push(route[1], output)

    def _take(self, message: Ready | Stats | Fatal) -> None:
        if isinstance(message, Stats):
            self.last_stats = message
            answer = self._asked.popleft() if self._asked else None
            if answer is not None and not answer.done():
                answer.set_result(message)
        elif isinstance(message, Ready):
            if not self.ready.done():
                self.ready.set_result(message)
        else:
            self.fatal = message

    def _end(self, why: str) -> None:
        """Ends every stream and question, once."""
        if self.closed.done():
            return
        self.closed.set_result(why)
        try:
            self._on_end()
        finally:
            self._lose_all()

    def _lose_all(self) -> None:
        routes, self._routes = self._routes, {}
        for stream in {id(stream): stream for stream, _ in routes.values()}.values():
            stream.lose()
        while self._asked:
            answer = self._asked.popleft()
            if answer is not None and not answer.done():
                answer.set_exception(lost_error())

    def _encode(self, message: ToEngine) -> bytes:
        return frame(self._encoder.encode(message))

    def _write(self, *messages: ToEngine) -> None:
        if self._transport is not None and not self.closed.done():
            self._transport.write(b"".join(map(self._encode, messages)))

"""The API process's end of a connection to one engine process.

The cost of a token here is what the whole service pays for every token of every stream, so there is
no task and no queue a stream: outputs are appended to a list, and a stream that waits is woken by
one future however many outputs a step brought.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from serving.boundary.framing import encode
from serving.boundary.link import Link
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

    def __init__(self, connection: EngineConnection, loop: asyncio.AbstractEventLoop) -> None:
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


class EngineConnection(Link[FromEngine, Ready]):
    """The link to one engine process. `on_end` is called first of all when it is over."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        super().__init__(FromEngine)
        self._on_end = on_end
        self.fatal: Fatal | None = None
        self.last_stats: Stats | None = None
        self._routes: dict[int, tuple[Stream, int]] = {}
        self._next_id = 1
        self._asked: deque[asyncio.Future[Stats] | None] = deque()

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
            frames.append(encode(Generate(sequence_id, prompt, sampling, priority, cache_salt)))
            self._routes[sequence_id] = (stream, choice)
            stream.start(sequence_id)
        transport.write(b"".join(frames))
        return stream

    def forget(self, ids: set[int]) -> None:
        """Aborts sequences; nothing of them is delivered any more."""
        for sequence_id in ids:
            self._routes.pop(sequence_id, None)
        self.write(*(Abort(sequence_id) for sequence_id in ids))

    async def stats(self) -> Stats:
        """Asks the engine loop. Raises ServingError (ENGINE_UNAVAILABLE) when it is gone."""
        if not self.is_open:
            raise lost_error()
        answer: asyncio.Future[Stats] = self._loop.create_future()
        self._asked.append(answer)
        self.write(GetStats())
        return await answer

    def ping(self) -> None:
        """Asks for a sign of life, unless a question is still unanswered."""
        if not self._asked and self.is_open:
            self._asked.append(None)
            self.write(GetStats())

    def shutdown(self) -> None:
        """Asks the engine process to leave."""
        self.write(Shutdown())

    def take(self, message: FromEngine) -> None:
        """Takes a message that has arrived."""
        if isinstance(message, Step):
            self._deliver(message.outputs)
        elif isinstance(message, Stats):
            self.last_stats = message
            answer = self._asked.popleft() if self._asked else None
            if answer is not None and not answer.done():
                answer.set_result(message)
        elif isinstance(message, Ready):
            if not self.ready.done():
                self.ready.set_result(message)
        else:
            self.fatal = message

    def lose(self) -> None:
        """Ends every stream and question."""
        try:
            self._on_end()
        finally:
            self._lose_all()

    def _deliver(self, outputs: list[Output]) -> None:
        routes = self._routes
        for output in outputs:
            route = routes.get(output.id)
            if route is None:
                continue  # Aborted: the engine had not read that yet.
            if output.finish:
                del routes[output.id]
            route[0].push(route[1], output)

    def _lose_all(self) -> None:
        routes, self._routes = self._routes, {}
        for stream in {id(stream): stream for stream, _ in routes.values()}.values():
            stream.lose()
        while self._asked:
            answer = self._asked.popleft()
            if answer is not None and not answer.done():
                answer.set_exception(lost_error())

"""An engine in the test's own process: it does what the test says, when it says it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from serving.boundary.lifecycle import Cause, EngineState, Transition
from serving.boundary.messages import Finish, Logprob, Output, Ready, Stats
from serving.boundary.sampling import Sampling
from serving.errors import ErrorKind, ServingError

CAPABILITIES = ("logprobs", "logit_bias", "penalties", "min_p")


class FakeStream:
    """The outputs of one job, given by hand."""

    def __init__(self, prompt: list[int], samplings: Sequence[Sampling]) -> None:
        self.prompt = prompt
        self.samplings = list(samplings)
        self.cancelled: list[int] = []
        self.closed = asyncio.Event()
        self.priority = 0.5
        self.cache_salt = ""
        self.suspended = False
        self._arrived: list[tuple[int, Output]] = []
        self._error: ServingError | None = None
        self._wake = asyncio.Event()

    def give(
        self,
        tokens: Sequence[int],
        *,
        choice: int = 0,
        finish: Finish = "",
        cached_tokens: int = 0,
        logprobs: Sequence[Logprob] | None = None,
    ) -> None:
        """Lets one output arrive."""
        entries = None if logprobs is None else list(logprobs)
        self.push(choice, Output(choice + 1, list(tokens), finish, cached_tokens, entries))

    def push(self, choice: int, output: Output) -> None:
        """Lets an output arrive."""
        self._arrived.append((choice, output))
        self._wake.set()

    def all_taken(self) -> bool:
        """Returns whether everything that arrived has been received."""
        return not self._arrived

    def fail(self, error: ServingError) -> None:
        """Lets the engine be lost."""
        self._error = error
        self._wake.set()

    async def receive(self) -> list[tuple[int, Output]]:
        """As `SequenceStream.receive`."""
        while not self._arrived:
            if self._error is not None:
                raise self._error
            self._wake.clear()
            await self._wake.wait()
        arrived, self._arrived = self._arrived, []
        return arrived

    def cancel(self, choice: int) -> None:
        """As `SequenceStream.cancel`."""
        self.cancelled.append(choice)

    def close(self) -> None:
        """As `SequenceStream.close`."""
        self.closed.set()


class FakeEngine:
    """An `EngineHandle`, and a supervisor to the lifecycle. Streams are in `opened`."""

    def __init__(self, *, max_seq_len: int = 4096, max_batch_size: int = 8) -> None:
        self.facts = Ready(
            runtime="replay",
            runtime_version="1",
            max_batch_size=max_batch_size,
            max_num_tokens=8192,
            max_seq_len=max_seq_len,
            block_tokens=32,
            blocks=128,
            device="cpu",
            load_seconds=0.0,
            capabilities=CAPABILITIES,
        )
        self.opened: list[FakeStream] = []
        self.state = EngineState.STOPPED
        self.alive = True
        self.restarts = 0
        self.last_stats: Stats | None = None
        self.on_transition: Callable[[Transition], None] = lambda transition: None
        self._opened = asyncio.Event()

    @property
    def ready(self) -> Ready | None:
        """The facts while the state is READY."""
        return self.facts if self.state is EngineState.READY else None

    def open(
        self,
        prompt: list[int],
        samplings: Sequence[Sampling],
        *,
        priority: float = 0.5,
        cache_salt: str = "",
    ) -> FakeStream:
        """As `EngineHandle.open`."""
        if self.ready is None:
            raise self.unavailable()
        stream = FakeStream(prompt, samplings)
        stream.priority = priority
        stream.cache_salt = cache_salt
        self.opened.append(stream)
        self._opened.set()
        return stream

    async def next_stream(self, number: int = 0) -> FakeStream:
        """Waits until the stream of that number has been opened."""
        while len(self.opened) <= number:
            self._opened.clear()
            async with asyncio.timeout(10):
                await self._opened.wait()
        return self.opened[number]

    def unavailable(self) -> ServingError:
        """As `EngineHandle.unavailable`."""
        return ServingError(
            ErrorKind.ENGINE_UNAVAILABLE, "The engine is loading.", retry_after_seconds=3.0
        )

    async def stats(self) -> Stats:
        """As `EngineHandle.stats`."""
        self.last_stats = Stats(running=2, waiting=1, blocks_used=32, blocks_total=128)
        return self.last_stats

    def enter(self, state: EngineState) -> None:
        """Changes the state and tells the lifecycle."""
        self.state = state
        self.on_transition(Transition(at_seconds=0.0, state=state, cause=Cause.REQUESTED))

    async def start(self) -> None:
        """As the supervisor's: ready at once."""
        self.enter(EngineState.READY)

    async def stop(self) -> None:
        """As the supervisor's."""
        self.enter(EngineState.STOPPED)

    def launch(self, directory: Path, on_transition: Callable[[Transition], None]) -> FakeEngine:
        """Is a `Launch` of this very engine."""
        self.on_transition = on_transition
        return self

"""The two seams of the process boundary: what computes, and what the pipeline talks to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from serving.boundary.messages import ExitCode, Generate, Output, Ready, Stats, Step
from serving.boundary.sampling import Sampling
from serving.errors import ServingError


class FatalError(Exception):
    """A runtime cannot go on: the engine process leaves with `exit_code`.

    The message is for the operator; clients are told only that the engine is unavailable.
    """

    def __init__(self, message: str, exit_code: int = ExitCode.FATAL) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Runtime(Protocol):
    """Executes sequences. The host calls every method from one thread.

    A runtime answers each accepted `Generate` with outputs that end in exactly one `finish`,
    unless `abort` came first: after it no output of that id follows, and its memory is free.

    Errors that leave a method are the host's: `MemoryError` from `step` says that the step did not
    happen for lack of memory and nothing else changed, so the host ends the youngest sequence with
    a fault and goes on; every other exception from `step` ends the process. An exception from
    `submit` ends that sequence alone.
    """

    def ready(self) -> Ready:
        """Returns the facts that the API process needs. The runtime is loaded when it exists."""
        ...

    def submit(self, request: Generate) -> None:
        """Queues a sequence. What is wrong with it comes back as an output with a fault."""
        ...

    def abort(self, sequence_id: int) -> None:
        """Forgets a sequence at once. Unknown ids are ignored."""
        ...

    @property
    def busy(self) -> bool:
        """True while a sequence is queued or running: `step` has something to do."""
        ...

    def step(self) -> Step | None:
        """Runs one step and returns its outputs, or None when there were none.

        Returns within one engine step, or within 5 ms when it only waits for a result.
        """
        ...

    def stats(self) -> Stats:
        """Returns gauges and counters."""
        ...

    def close(self) -> None:
        """Frees what the runtime holds."""
        ...


class SequenceStream(Protocol):
    """The outputs of the sequences of one job."""

    async def receive(self) -> list[tuple[int, Output]]:
        """Waits, then returns every (choice, output) that has arrived since the last call.

        Raises ServingError (ENGINE_UNAVAILABLE) when the engine was lost; what had arrived before
        is returned first.
        """
        ...

    @property
    def suspended(self) -> bool:
        """True while the engine says that it has set a sequence of these aside for lack of memory,
        as of its last statistics."""
        ...

    def cancel(self, choice: int) -> None:
        """Aborts one sequence; nothing more of it arrives. A finished one is left as it is."""
        ...

    def close(self) -> None:
        """Aborts what is unfinished and forgets the sequences. Idempotent, never waits."""
        ...


class EngineHandle(Protocol):
    """The engine as the pipeline sees it: the supervisor in production."""

    @property
    def ready(self) -> Ready | None:
        """The facts of the engine that runs now, or None while none is ready."""
        ...

    def open(
        self,
        prompt: list[int],
        samplings: Sequence[Sampling],
        *,
        priority: float = 0.5,
        cache_salt: str = "",
    ) -> SequenceStream:
        """Starts one sequence for each sampling over the same prompt; choice i has sampling i.

        Raises ServingError (ENGINE_UNAVAILABLE, with a Retry-After) while no engine is ready.
        """
        ...

    async def stats(self) -> Stats:
        """Asks the engine. Raises ServingError (ENGINE_UNAVAILABLE) as `open` does."""
        ...

    def unavailable(self) -> ServingError:
        """Returns what requests are told while no engine is ready."""
        ...

"""Keeps one engine process serving: starts it, watches it, restarts it, gives it up."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.boundary.child import ENVIRONMENT, Child
from serving.boundary.client import EngineConnection, Stream
from serving.boundary.lifecycle import (
    FAILURES,
    Cause,
    EngineState,
    Policy,
    Transition,
    failed,
)
from serving.boundary.messages import ExitCode, Ready, Stats
from serving.boundary.sampling import Sampling
from serving.errors import ErrorKind, ServingError

MODULE = "serving.engines.host"
HISTORY_LENGTH = 64

_COLLECT_SECONDS = 1.0
"""Between the end of the connection and that of the process, before it is killed."""
_UNKNOWN_LOAD_SECONDS = 5.0

_CAUSES: dict[int, Cause] = {
    ExitCode.REFUSED: Cause.REFUSED,
    ExitCode.OUT_OF_MEMORY: Cause.OUT_OF_MEMORY,
    ExitCode.FATAL: Cause.FATAL,
    ExitCode.WORKER_LOST: Cause.WORKER_LOST,
    ExitCode.COMMUNICATION: Cause.COMMUNICATION,
    ExitCode.HUNG: Cause.HUNG,
}

_WAITING = {
    EngineState.STARTING: "The engine is loading. Try again later.",
    EngineState.READY: "The engine is being restarted. Try again later.",
    EngineState.LOST: "The engine is being restarted. Try again later.",
    EngineState.BACKOFF: "The engine is being restarted. Try again later.",
    EngineState.STOPPED: "The engine is stopped.",
}


@dataclass(frozen=True, slots=True)
class _End:
    """How one engine process ended. `served_seconds` is 0 when it was never ready."""

    cause: Cause
    detail: str
    exit_code: int | None
    served_seconds: float


class Supervisor:
    """The engine as the pipeline sees it: an `EngineHandle` that outlives engine processes.

    `on_transition` is called on the event loop after each change of state and must not raise.
    `environment` is added to what the engine process inherits.
    """

    def __init__(
        self,
        directory: Path,
        policy: Policy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_transition: Callable[[Transition], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self._policy = policy or Policy()
        self._clock = clock
        self._on_transition = on_transition
        self._environment = environment or {}
        self._state = EngineState.STOPPED
        self._history: deque[Transition] = deque(maxlen=HISTORY_LENGTH)
        self._changed = asyncio.Event()
        self._child: Child[EngineConnection] | None = None
        self._task: asyncio.Task[None] | None = None
        self._starts = 0
        self._next_start_at: float | None = None
        self._load_seconds = _UNKNOWN_LOAD_SECONDS

    @property
    def state(self) -> EngineState:
        """Where the engine is now."""
        return self._state

    @property
    def history(self) -> tuple[Transition, ...]:
        """The last `HISTORY_LENGTH` changes of state, oldest first."""
        return tuple(self._history)

    @property
    def alive(self) -> bool:
        """False once the engine has been given up: only a restart of the service can help."""
        return self._state is not EngineState.FAILED

    @property
    def restarts(self) -> int:
        """How many engine processes were started after the first."""
        return max(0, self._starts - 1)

    @property
    def pid(self) -> int | None:
        """The id of the engine process, or None while there is none."""
        return None if self._child is None else self._child.pid

    @property
    def ready(self) -> Ready | None:
        """The facts of the engine that runs now, or None while none is ready."""
        if self._state is not EngineState.READY or self._child is None:
            return None
        return self._child.link.ready.result()

    @property
    def last_stats(self) -> Stats | None:
        """What the engine that runs now last said of itself; None where it has said nothing.

        No older than `ping_seconds`, unless the engine hangs.
        """
        return None if self._child is None else self._child.link.last_stats

    def open(
        self,
        prompt: list[int],
        samplings: Sequence[Sampling],
        *,
        priority: float = 0.5,
        cache_salt: str = "",
    ) -> Stream:
        """Starts one sequence for each sampling over the same prompt; choice i has sampling i.

        Raises ServingError: ENGINE_UNAVAILABLE, with a Retry-After, while no engine is ready;
        OVERLOADED when the engine has stopped reading.
        """
        connection = self._serving()
        return connection.open(prompt, samplings, priority=priority, cache_salt=cache_salt)

    def unavailable(self) -> ServingError:
        """Returns what requests are told while no engine is ready."""
        if self._state is EngineState.FAILED:
            return failed(FAILURES.get(self._history[-1].cause, "an internal error"))
        return ServingError(
            ErrorKind.ENGINE_UNAVAILABLE,
            _WAITING[self._state],
            retry_after_seconds=self._retry_after_seconds(),
        )

    async def stats(self) -> Stats:
        """Asks the engine loop. Raises ServingError (ENGINE_UNAVAILABLE) as `open` does."""
        return await self._serving().stats()

    async def start(self) -> None:
        """Begins to start the engine, and returns at once; see `settled`."""
        if self._task is None:
            self._enter(EngineState.STARTING, Cause.REQUESTED)
            self._task = asyncio.create_task(self._supervise(), name="engine-supervisor")

    async def settled(self) -> EngineState:
        """Waits until the engine is READY, FAILED or STOPPED, and returns which."""
        waited_for = (EngineState.READY, EngineState.FAILED, EngineState.STOPPED)
        return await self.reached(*waited_for)

    async def reached(self, *states: EngineState) -> EngineState:
        """Waits until the engine is in one of `states`, and returns which."""
        while self._state not in states:
            await self._changed.wait()
        return self._state

    async def stop(self) -> None:
        """Ends the engine, loading or not, and returns when no process is left. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            self._enter(EngineState.STOPPED, Cause.REQUESTED)
            task.cancel()
            await asyncio.wait({task})

    def _serving(self) -> EngineConnection:
        if self._child is None or self.ready is None:
            raise self.unavailable()
        return self._child.link

    def _retry_after_seconds(self) -> float:
        """Returns when an engine may be ready, as well as that can be told; at least 1."""
        if self._state is EngineState.STOPPED:
            return self._policy.backoff_most_seconds
        until_start = 0.0
        if self._next_start_at is not None:
            until_start = max(0.0, self._next_start_at - self._clock())
        return max(1.0, until_start + self._load_seconds)

    def _enter(
        self,
        state: EngineState,
        cause: Cause,
        detail: str = "",
        exit_code: int | None = None,
        restart_seconds: float | None = None,
    ) -> None:
        self._state = state
        transition = Transition(
            at_seconds=self._clock(),
            state=state,
            cause=cause,
            detail=detail,
            exit_code=exit_code,
            restart_seconds=restart_seconds,
        )
        self._history.append(transition)
        self._changed.set()
        self._changed = asyncio.Event()
        if self._on_transition is not None:
            self._on_transition(transition)

    def _on_disconnected(self) -> None:
        """Leaves READY before any stream is told that the engine is gone."""
        if self._state is EngineState.READY:
            self._enter(EngineState.LOST, Cause.DISCONNECTED)

    async def _supervise(self) -> None:
        try:
            await self._keep_serving()
        except Exception as error:
            logging.getLogger(__name__).exception("the engine supervisor failed")
            self._enter(EngineState.FAILED, Cause.INTERNAL, f"{type(error).__name__}: {error}")

    async def _keep_serving(self) -> None:
        """Returns when the engine is given up."""
        policy = self._policy
        failures = 0
        while True:
            end = await self._run_once()
            failures = 1 if end.served_seconds >= policy.stable_seconds else failures + 1
            if end.cause is Cause.REFUSED or failures >= policy.max_failures:
                self._enter(EngineState.FAILED, end.cause, end.detail, end.exit_code)
                return
            wait_seconds = policy.backoff_seconds(failures)
            self._next_start_at = self._clock() + wait_seconds
            self._enter(EngineState.BACKOFF, end.cause, end.detail, end.exit_code, wait_seconds)
            await asyncio.sleep(wait_seconds)
            self._next_start_at = None
            self._enter(EngineState.STARTING, Cause.BACKOFF_OVER)

    async def _run_once(self) -> _End:
        """Runs one engine process from its start to its end; leaves nothing of it behind."""
        self._starts += 1
        try:
            child = self._child = Child(
                EngineConnection(self._on_disconnected),
                MODULE,
                *("--engine", str(self._directory)),
                environment={**ENVIRONMENT, **os.environ, **self._environment},
            )
        except OSError as error:
            return _End(Cause.SPAWN, str(error), None, 0.0)
        try:
            return await self._follow(child)
        except asyncio.CancelledError:
            if child.link.ready.done():
                child.link.shutdown()
                await child.wait(self._policy.stop_seconds)
            raise
        finally:
            child.link.close()
            await child.end()
            self._child = None

    async def _follow(self, child: Child[EngineConnection]) -> _End:
        """Returns how the process ended, after waiting for that or deciding it."""
        connection = child.link
        gone: set[asyncio.Future[Any]] = {connection.closed, child.exited}
        limit = self._policy.load_seconds
        if not await child.loaded(limit):
            verdict = None
            if not any(future.done() for future in gone):
                verdict = (Cause.LOAD_TIMEOUT, f"not ready within {limit:g} seconds")
            return await _end_of(child, verdict, 0.0)
        ready = connection.ready.result()
        self._load_seconds = ready.load_seconds
        ready_at = self._clock()
        self._enter(EngineState.READY, Cause.LOADED, f"{ready.runtime} on {ready.device}")
        watch = asyncio.create_task(self._watch(connection))
        try:
            await asyncio.wait({watch, *gone}, return_when=asyncio.FIRST_COMPLETED)
            verdict = watch.result() if watch.done() and not connection.closed.done() else None
        finally:
            watch.cancel()
        if verdict:
            self._enter(EngineState.LOST, *verdict)
        connection.close()
        return await _end_of(child, verdict, self._clock() - ready_at)

    async def _watch(self, connection: EngineConnection) -> tuple[Cause, str]:
        """Returns when the engine answers nothing, or makes no steps, for too long.

        Time in which this process did not run itself is not held against the engine.
        """
        policy = self._policy
        silent_seconds = stuck_seconds = 0.0
        heard, steps, before = connection.heard, 0, self._clock()
        while True:
            connection.ping()
            await asyncio.sleep(policy.ping_seconds)
            now = self._clock()
            passed_seconds = min(now - before, 2 * policy.ping_seconds)
            before = now
            silent_seconds = 0.0 if connection.heard != heard else silent_seconds + passed_seconds
            heard = connection.heard
            latest = connection.last_stats
            stuck = latest is not None and latest.running > 0 and latest.steps_total == steps
            stuck_seconds = stuck_seconds + passed_seconds if stuck else 0.0
            steps = 0 if latest is None else latest.steps_total
            if silent_seconds >= policy.stall_seconds:
                return Cause.HUNG, f"no sign of life for {silent_seconds:.1f} seconds"
            if stuck_seconds >= policy.progress_seconds:
                return Cause.NO_PROGRESS, f"no step for {stuck_seconds:.1f} seconds"


async def _end_of(
    child: Child[EngineConnection], verdict: tuple[Cause, str] | None, served_seconds: float
) -> _End:
    """Returns how a process ended that is leaving, or that `verdict` says is to be killed."""
    exit_code = None if verdict else await child.wait(_COLLECT_SECONDS)
    if verdict is None:
        verdict = _explain(child.link, exit_code)
    return _End(*verdict, await child.end(), served_seconds)


def _explain(connection: EngineConnection, exit_code: int | None) -> tuple[Cause, str]:
    """Returns why an engine process ended by itself, from its last words or its exit code."""
    if connection.fatal is not None:
        code = connection.fatal.exit_code
        return _CAUSES.get(code, Cause.FATAL), connection.fatal.message
    why = connection.closed.result() if connection.closed.done() else ""
    if why:
        return Cause.PROTOCOL, why
    if exit_code is None:
        return Cause.DISCONNECTED, "it closed the connection and did not leave"
    if exit_code < 0:
        return Cause.KILLED, f"by signal {-exit_code}"
    return _CAUSES.get(exit_code, Cause.EXITED), f"exit code {exit_code}"

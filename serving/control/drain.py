"""Taking leave: who asks for it, what still runs, and when each part of it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import IntEnum
from functools import partial
from types import TracebackType

from serving.errors import ErrorKind, ServingError
from serving.settings import Draining

RETRY_AFTER_SECONDS = 5.0

END_SECONDS = 5.0
"""How long work that was told to end has for its last words and for the store."""

Stop = Callable[[], None]
"""Asks one piece of work to end; called in the event loop."""


class Phase(IntEnum):
    """How far the leave-taking is. It goes forward only."""

    SERVING = 0
    NOTICE = 1
    """Requests are served, and `/readyz` says that they should go elsewhere."""
    REFUSING = 2
    """New work is refused, running work goes on."""
    ENDING = 3
    """Running work has been told to end."""
    OVER = 4
    """Nobody waits for what still runs."""


class Drain:
    """The one state of leaving, for the edge, the probes, sockets, background work and the host.

    `begin` may be called by anyone in the event loop. `on_phase` hears of each new phase.
    """

    def __init__(
        self, limits: Draining, on_phase: Callable[[Phase], None] = lambda phase: None
    ) -> None:
        self._limits = limits
        self._on_phase = on_phase
        self._work: dict[object, Stop] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.phase = Phase.SERVING
        self.refusing = asyncio.Event()
        """Set from the phase REFUSING on."""

    @property
    def running(self) -> int:
        """How many pieces of work have not ended."""
        return len(self._work)

    @property
    def draining(self) -> bool:
        """True from the first notice on: whoever chooses among servers should choose another."""
        return self.phase is not Phase.SERVING

    @property
    def done(self) -> bool:
        """True when the process can leave: nothing new is let in and nothing is waited for."""
        return self.phase is Phase.OVER or (self.refusing.is_set() and not self._work)

    def begin(self, notice_seconds: float | None = None) -> None:
        """Begins to drain, with the notice of the settings or another. Again: only shortens it."""
        seconds = self._limits.notice_seconds if notice_seconds is None else notice_seconds
        if self.phase is Phase.SERVING:
            self._enter(Phase.NOTICE, seconds)
        elif self.phase is Phase.NOTICE and not seconds:
            self._advance()

    def require_open(self) -> None:
        """Raises ServingError (DRAINING) when no new work is let in."""
        if self.phase >= Phase.REFUSING:
            raise draining()

    def enter(self, stop: Stop) -> Callable[[], object]:
        """Counts a piece of work; returns what is to be called when it has ended.

        `stop` is called when its time is over, at once if that is so already.
        """
        key = object()
        self._work[key] = stop
        if self.phase >= Phase.ENDING:
            stop()
        return partial(self._work.pop, key, None)

    @contextmanager
    def work(self) -> Generator[None]:
        """Counts a block as work. What bounds it is inside of it."""
        leave = self.enter(lambda: None)
        try:
            yield
        finally:
            leave()

    def bounded(self, ours: Callable[[], bool] = lambda: True) -> Bounded:
        """Returns what counts a block as work and ends it when its time is over.

        A block that is not `ours` at that moment is left to whatever else bounds it.
        """
        return Bounded(self, ours)

    def _enter(self, phase: Phase, seconds: float) -> None:
        self.phase = phase
        self._on_phase(phase)
        if seconds > 0:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._advance)
        else:
            self._advance()

    def _advance(self) -> None:
        """Enters the next phase."""
        if self._timer is not None:
            self._timer.cancel()
        if self.phase is Phase.NOTICE:
            self.refusing.set()
            self._enter(Phase.REFUSING, self._limits.running_seconds)
        elif self.phase is Phase.REFUSING:
            self._enter(Phase.ENDING, END_SECONDS)
            for stop in list(self._work.values()):
                stop()
        else:
            self.phase = Phase.OVER
            self._on_phase(self.phase)


class Bounded:
    """Runs a block as work: cancelled when its time is over, with ServingError (DRAINING) raised
    in its place. Once in each request, so not made of the slower parts of the standard library."""

    __slots__ = ("_before", "_drain", "_ended", "_leave", "_ours", "_task")

    def __init__(self, drain: Drain, ours: Callable[[], bool]) -> None:
        self._drain = drain
        self._ours = ours
        self._ended = False

    async def __aenter__(self) -> None:
        """Begins. Raises ServingError when the time of all work is over."""
        if self._drain.phase >= Phase.ENDING:
            raise draining()
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("work is bounded in a task")
        self._task = task
        self._before = task.cancelling()
        self._leave = self._drain.enter(self._stop)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends. Raises ServingError in place of this cancellation, of no other."""
        self._leave()
        alone = self._ended and self._task.uncancel() <= self._before
        if alone and isinstance(raised, asyncio.CancelledError):
            raise draining() from None

    def _stop(self) -> None:
        if self._ours():
            self._ended = True
            self._task.cancel()


def draining() -> ServingError:
    """Returns what is told of work that is refused, or ended, because the service leaves."""
    return ServingError(
        ErrorKind.DRAINING,
        "The server is shutting down. Try again: another one, or the next, will answer.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )

"""Interrupts a task that waits for the engine: when it does so longer than it may, or is told to.

The cost of a deadline is paid when a job begins and ends, not for every token: one timer looks from
time to time whether the wait of that moment is over its limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from serving.boundary.contract import SequenceStream
from serving.boundary.messages import Output
from serving.errors import ErrorKind, ServingError

TOO_LATE = "The request took longer than it may in total."


@asynccontextmanager
async def within(seconds: float) -> AsyncGenerator[None]:
    """Runs a block for so many seconds, then ends it with ServingError (DEADLINE)."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise ServingError(ErrorKind.DEADLINE, TOO_LATE) from None


class Watch:
    """The deadlines of one job: to the first output, between outputs, and in total.

    Time in which the engine has set a sequence of the job aside counts for the total alone.
    To be made and used in the task that runs the job. `due` is a time of `clock`, in seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        due: float,
        first_token_seconds: float,
        stall_seconds: float,
    ) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a watch belongs to a task")
        self._task = task
        self._clock = clock
        self._due = due
        self._limit_seconds = first_token_seconds
        self._stall_seconds = stall_seconds
        self._waiting_since: float | None = None
        self._stream: SequenceStream | None = None
        self._error: ServingError | None = None
        self._loop = asyncio.get_running_loop()
        now = clock()
        self._timer = self._loop.call_later(self._next_look(now, now), self._look)

    async def receive(self, stream: SequenceStream) -> list[tuple[int, Output]]:
        """Returns what `stream.receive` does.

        Raises ServingError: DEADLINE when it is too late, or that of the interruption.
        """
        self._raise_if_late()
        self._waiting_since, self._stream = self._clock(), stream
        try:
            return await stream.receive()
        except asyncio.CancelledError:
            # Cancelled by this watch alone; another cancellation at the same time goes first.
            if self._late() and self._task.uncancel() == 0:
                self._raise_if_late()
            raise
        finally:
            self._waiting_since = None
            self._limit_seconds = self._stall_seconds

    def interrupt(self, error: ServingError) -> None:
        """Ends the wait of this moment, or the next one, with `error`, unless it is too late."""
        if self._error is None:
            self._timer.cancel()
            self._error = error
            if self._waiting_since is not None:
                self._task.cancel()

    def close(self) -> None:
        """Ends the watch. Idempotent."""
        self._timer.cancel()

    def _late(self) -> bool:
        return self._error is not None

    def _raise_if_late(self) -> None:
        if self._error is not None:
            raise self._error from None

    def _look(self) -> None:
        """Finds whether a deadline has passed, or when to look again."""
        now = self._clock()
        if self._waiting_since is not None and self._stream is not None and self._stream.suspended:
            self._waiting_since = now
        since = now if self._waiting_since is None else self._waiting_since
        if now < min(self._due, since + self._limit_seconds):
            self._timer = self._loop.call_later(self._next_look(now, since), self._look)
            return
        self.interrupt(ServingError(ErrorKind.DEADLINE, self._reason(now)))

    def _next_look(self, now: float, since: float) -> float:
        """Returns the seconds to the next deadline that can come, as things stand.

        Never more than `stall_seconds`, which begins to count when the first output has come.
        """
        next_deadline = min(self._due, since + self._limit_seconds)
        return max(0.0, min(next_deadline - now, self._stall_seconds))

    def _reason(self, now: float) -> str:
        if now >= self._due:
            return TOO_LATE
        return f"The engine gave no token for {self._limit_seconds:g} seconds."

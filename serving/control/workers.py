"""Threads for work that would hold the event loop up; each kind of work has its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar, TypeVarTuple

from serving.control.admission import overloaded

THREADS = 2
"""Of each kind: most of the work holds the interpreter, so more of them would only share it."""

Given = TypeVarTuple("Given")
Result = TypeVar("Result")


class Workers:
    """Does work of one kind, first come first served, with a bounded line before it.

    Work whose caller is cancelled before it has begun is never done.
    """

    def __init__(self, name: str, *, max_waiting: int, inline_bytes: int) -> None:
        """Work on at most `inline_bytes` is not worth a thread."""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=name)
        self._free = asyncio.Semaphore(THREADS)
        self._max_waiting = max_waiting
        self._inline_bytes = inline_bytes
        self._waiting = 0

    async def run_sized(
        self, size_bytes: int, work: Callable[[*Given], Result], *given: *Given
    ) -> Result:
        """Returns what `work` returns; work on few bytes is done at once. Raises as `run` does."""
        if size_bytes <= self._inline_bytes:
            return work(*given)
        return await self.run(work, *given)

    async def run(self, work: Callable[[*Given], Result], *given: *Given) -> Result:
        """Returns what `work` returns. Raises what it raises, and ServingError (OVERLOADED)."""
        if self._free.locked() and self._waiting >= self._max_waiting:
            raise overloaded()
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        loop = asyncio.get_running_loop()
        done = self._threads.submit(work, *given)
        # A thread is free when its work is over. A caller that leaves does not end that.
        done.add_done_callback(lambda _: self._release(loop))
        return await asyncio.wrap_future(done)

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(self._free.release)

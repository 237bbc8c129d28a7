"""The SQLite database in which clients' responses and conversations are.

Threads of its own use it, so no request waits for another's disk on the event loop. It is opened
with the first use; a process that stores nothing touches nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from serving.settings import Store
from serving.store.access import Access, Change, Result, Way, Work
from serving.store.failure import Reason
from serving.store.owner import Owner

State = Literal["ok", "read_only", "unavailable"]


class Database:
    """Reads and writes the database in `path`, each apart: what cannot be written can be read.

    `on_change` is told when either stops to work and when it works again, `on_failure` of each
    piece of work that was not done; both in any thread.
    """

    def __init__(
        self,
        path: Path,
        settings: Store,
        on_change: Callable[[Change], None],
        on_failure: Callable[[Way, Reason], None],
    ) -> None:
        self._reads = Access(Way.READ, path, settings, on_change, on_failure)
        # A connection of this process that was made without the right to write bars all others.
        self._writes = Access(
            *(Way.WRITE, path, settings, on_change, on_failure),
            on_read_only=self._reads.reconnect,
        )
        self.owner = Owner(path)

    @property
    def state(self) -> State:
        """What can be done now."""
        if not self._reads.works:
            return "unavailable"
        return "ok" if self._writes.works else "read_only"

    async def read(self, work: Work[Result]) -> Result:
        """Returns what `work` returns, which changes nothing. Raises ServingError."""
        return await self._reads.run(work)

    async def write(self, work: Work[Result]) -> Result:
        """Returns what `work` returns; all that it changes is changed, or nothing.

        Raises ServingError.
        """
        return await self._writes.run(work)

    def write_behind(self, work: Work[object]) -> None:
        """Does `work` after all writes before it, if it can be done: nobody waits for it."""
        self._writes.run_behind(work)

    def require_writes(self) -> None:
        """Raises ServingError (STORE_UNAVAILABLE) while nothing can be written."""
        self._writes.require()

    async def close(self) -> None:
        """Closes the database when what is in line is done. Idempotent."""
        await asyncio.gather(self._reads.close(), self._writes.close())
        self.owner.release()

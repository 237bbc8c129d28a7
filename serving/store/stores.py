"""All that is kept for clients: responses and conversations, in one database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from serving.settings import Store
from serving.store.access import Change, Way
from serving.store.conversations import ConversationStore
from serving.store.database import Database, State
from serving.store.failure import Reason
from serving.store.responses import ResponseStore


class Stores:
    """`responses` and `conversations` of the database in `path`.

    `now` is the time of day in seconds since 1970. `on_change` and `on_failure` are those of
    `Database`; clients learn only that it cannot be used.
    """

    def __init__(
        self,
        path: Path,
        settings: Store,
        *,
        now: Callable[[], float],
        on_change: Callable[[Change], None],
        on_failure: Callable[[Way, Reason], None],
    ) -> None:
        self._database = Database(path, settings, on_change, on_failure)
        self.responses = ResponseStore(self._database, settings, now)
        self.conversations = ConversationStore(self._database, settings, now)

    @property
    def state(self) -> State:
        """What can be done with the database now."""
        return self._database.state

    async def close(self) -> None:
        """Closes the database. Idempotent."""
        await self._database.close()

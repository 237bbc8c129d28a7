"""All that is kept for clients: responses and conversations, in one database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from serving.settings import Store
from serving.store.conversations import ConversationStore
from serving.store.database import Database
from serving.store.responses import ResponseStore


class Stores:
    """`responses` and `conversations` of the database in `path`.

    `now` is the time of day in seconds since 1970. `on_failure` is told why the database cannot be
    used; clients learn only that it cannot.
    """

    def __init__(
        self,
        path: Path,
        settings: Store,
        *,
        now: Callable[[], float],
        on_failure: Callable[[str], None],
    ) -> None:
        self._database = Database(path, on_failure)
        self.responses = ResponseStore(self._database, settings, now)
        self.conversations = ConversationStore(self._database, settings, now)

    async def close(self) -> None:
        """Closes the database. Idempotent."""
        await self._database.close()

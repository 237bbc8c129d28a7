"""Conversations on disk: lists of items with a name, to which responses add theirs.

Bounded in number, bytes and time as responses are; a conversation goes as a whole, by the time of
its last use: being made, changed or answered in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from serving.errors import ErrorKind, ServingError
from serving.settings import Store
from serving.store.database import Database
from serving.store.eviction import evict, since

Json = dict[str, Any]


class Conversation(NamedTuple):
    """One conversation without its items. `created` is in seconds since 1970."""

    id: str
    created: int
    metadata: dict[str, str]


class Page(NamedTuple):
    """Some of a conversation's items, in the order that was asked for."""

    items: list[Json]
    has_more: bool


class ConversationLock:
    """The right to answer in one conversation: while one has it, no other can."""

    def __init__(self, locked: set[tuple[str, str]], key: tuple[str, str]) -> None:
        if key in locked:
            raise _locked_error()
        locked.add(key)
        self._locked = locked
        self._key: tuple[str, str] | None = key

    def release(self) -> None:
        """Gives the right back. Idempotent."""
        if self._key is not None:
            self._locked.discard(self._key)
            self._key = None


class ConversationStore:
    """Keeps conversations across restarts. `now` is the time of day in seconds since 1970."""

    def __init__(self, database: Database, settings: Store, now: Callable[[], float]) -> None:
        self._database = database
        self._settings = settings
        self._now = now
        self._locked: set[tuple[str, str]] = set()

    def lock(self, tenant: str, name: str) -> ConversationLock:
        """Returns the right to answer in a conversation.

        Raises ServingError: CONVERSATION_LOCKED while another request of this process has it,
        STORE_UNAVAILABLE while no turn could be added.
        """
        self._database.require_writes()
        return ConversationLock(self._locked, (tenant, name))

    async def create(
        self, tenant: str, name: str, metadata: dict[str, str], items: Sequence[Json]
    ) -> Conversation:
        """Returns a new conversation with these items. Raises ServingError."""

        def work(database: sqlite3.Connection) -> Conversation:
            now = self._now()
            database.execute(
                "INSERT INTO conversations (id, tenant, created, used, bytes, metadata) "
                "VALUES (?, ?, ?, ?, 0, ?)",
                (name, tenant, int(now), now, msgspec.json.encode(metadata)),
            )
            append_items(database, tenant, name, items, now)
            evict(database, self._settings, now)
            return Conversation(name, int(now), metadata)

        return await self._database.write(work)

    async def load(self, tenant: str, name: str) -> Conversation | None:
        """Returns a conversation, or None where there is none. Raises ServingError."""

        def work(database: sqlite3.Connection) -> Conversation | None:
            row = self._find(database, tenant, name)
            return row and Conversation(name, row[0], msgspec.json.decode(row[1]))

        return await self._database.read(work)

    async def update(self, tenant: str, name: str, metadata: dict[str, str]) -> Conversation | None:
        """Returns a conversation with its new metadata, or None. Raises ServingError."""

        def work(database: sqlite3.Connection) -> Conversation | None:
            row = self._find(database, tenant, name)
            if row is None:
                return None
            now = self._now()
            database.execute(
                "UPDATE conversations SET metadata = ?, used = ? WHERE id = ?",
                (msgspec.json.encode(metadata), now, name),
            )
            evict(database, self._settings, now)
            return Conversation(name, row[0], metadata)

        return await self._database.write(work)

    async def delete(self, tenant: str, name: str) -> bool:
        """Returns whether there was such a conversation. Its bytes are overwritten on disk.

        Raises ServingError.
        """

        def work(database: sqlite3.Connection) -> bool:
            return bool(
                database.execute(
                    "DELETE FROM conversations WHERE id = ? AND tenant = ? AND used >= ?",
                    (name, tenant, self._since()),
                ).rowcount
            )

        return await self._database.write(work)

    async def items(self, tenant: str, name: str, max_bytes: int) -> list[Json] | None:
        """Returns every item, the oldest first; None where there is no such conversation.

        Raises ServingError, also for more than `max_bytes`.
        """

        def work(database: sqlite3.Connection) -> list[Json] | None:
            row = self._find(database, tenant, name)
            if row is None:
                return None
            if row[2] > max_bytes:
                raise _too_large(max_bytes)
            rows = database.execute(
                "SELECT body FROM conversation_items WHERE conversation = ? ORDER BY number",
                (name,),
            )
            return [msgspec.json.decode(body) for (body,) in rows]

        def touch(database: sqlite3.Connection) -> None:
            database.execute(
                "UPDATE conversations SET used = max(used, ?) WHERE id = ?", (now, name)
            )

        now = self._now()
        found = await self._database.read(work)
        if found is not None:
            self._database.write_behind(touch)
        return found

    async def page(
        self, tenant: str, name: str, *, limit: int, newest_first: bool, after: str | None
    ) -> Page | None:
        """Returns the items after that with the id `after`, or from the beginning.

        None where there is no such conversation. Raises ServingError (INVALID_VALUE) for an
        `after` that is not there.
        """

        def work(database: sqlite3.Connection) -> Page | None:
            if self._find(database, tenant, name) is None:
                return None
            past = None
            if after is not None:
                past = database.execute(
                    "SELECT number FROM conversation_items WHERE conversation = ? AND id = ?",
                    (name, after),
                ).fetchone()
                if past is None:
                    raise ServingError(
                        ErrorKind.INVALID_VALUE,
                        "'after' names no item of this conversation.",
                        param="after",
                    )
            order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
            rows = database.execute(
                "SELECT body FROM conversation_items WHERE conversation = :name AND "  # noqa: S608
                f"(:past IS NULL OR number {beyond} :past) ORDER BY number {order} LIMIT :limit",
                {"name": name, "past": past and past[0], "limit": limit + 1},
            ).fetchall()
            found = [msgspec.json.decode(body) for (body,) in rows]
            return Page(found[:limit], len(found) > limit)

        return await self._database.read(work)

    async def add(self, tenant: str, name: str, items: Sequence[Json], max_bytes: int) -> bool:
        """Returns whether there is such a conversation; the items are at its end.

        Raises ServingError: while the conversation is locked, and where it would have more than
        `max_bytes`.
        """

        def work(database: sqlite3.Connection) -> bool:
            now = self._now()
            if not append_items(database, tenant, name, items, now):
                return False
            (size,) = database.execute(
                "SELECT bytes FROM conversations WHERE id = ?", (name,)
            ).fetchone()
            if size > max_bytes:
                raise _too_large(max_bytes)
            evict(database, self._settings, now)
            return True

        lock = self.lock(tenant, name)
        try:
            return await self._database.write(work)
        finally:
            lock.release()

    async def item(self, tenant: str, name: str, item_id: str) -> Json | None:
        """Returns an item, or None where there is none. Raises ServingError."""

        def work(database: sqlite3.Connection) -> Json | None:
            if self._find(database, tenant, name) is None:
                return None
            row = database.execute(
                "SELECT body FROM conversation_items WHERE conversation = ? AND id = ?",
                (name, item_id),
            ).fetchone()
            return row and msgspec.json.decode(row[0], type=Json)

        return await self._database.read(work)

    async def remove(self, tenant: str, name: str, item_id: str) -> Conversation | None:
        """Returns the conversation without the item; None where there was none of them.

        Raises ServingError, also while the conversation is locked.
        """

        def work(database: sqlite3.Connection) -> Conversation | None:
            row = self._find(database, tenant, name)
            if row is None:
                return None
            gone = database.execute(
                "DELETE FROM conversation_items WHERE conversation = ? AND id = ? "
                "RETURNING length(body)",
                (name, item_id),
            ).fetchone()
            if gone is None:
                return None
            database.execute(
                "UPDATE conversations SET bytes = bytes - ?, used = ? WHERE id = ?",
                (gone[0], self._now(), name),
            )
            return Conversation(name, row[0], msgspec.json.decode(row[1]))

        lock = self.lock(tenant, name)
        try:
            return await self._database.write(work)
        finally:
            lock.release()

    def _find(
        self, database: sqlite3.Connection, tenant: str, name: str
    ) -> tuple[int, bytes, int] | None:
        """Returns when a conversation was made, its metadata and its bytes; None for none."""
        row: tuple[int, bytes, int] | None = database.execute(
            "SELECT created, metadata, bytes FROM conversations "
            "WHERE id = ? AND tenant = ? AND used >= ?",
            (name, tenant, self._since()),
        ).fetchone()
        return row

    def _since(self) -> float:
        return since(self._settings, self._now())


def append_items(
    database: sqlite3.Connection, tenant: str, name: str, items: Sequence[Json], now: float
) -> bool:
    """Returns whether there is such a conversation. Those of `items` that it lacks are at its end.

    To be called within a transaction.
    """
    row = database.execute(
        "SELECT 1 FROM conversations WHERE id = ? AND tenant = ?", (name, tenant)
    ).fetchone()
    if row is None:
        return False
    added = 0
    for item in items:
        body = msgspec.json.encode(item)
        cursor = database.execute(
            "INSERT OR IGNORE INTO conversation_items (conversation, id, body) VALUES (?, ?, ?)",
            (name, item["id"], body),
        )
        added += len(body) * cursor.rowcount
    database.execute(
        "UPDATE conversations SET used = ?, bytes = bytes + ? WHERE id = ?", (now, added, name)
    )
    return True


def _locked_error() -> ServingError:
    return ServingError(
        ErrorKind.CONVERSATION_LOCKED,
        "Another request is answered in this conversation. Try again when it has ended.",
        param="conversation",
    )


def _too_large(max_bytes: int) -> ServingError:
    return ServingError(
        ErrorKind.CONTEXT_LENGTH,
        f"The conversation has more than {max_bytes} bytes.",
        param="conversation",
    )

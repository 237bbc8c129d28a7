"""Responses on disk, bounded in number, bytes and time.

A conversation by `previous_response_id` is a chain of responses, each with the input that it
brought; the items of the whole chain are read with one query.

Whatever must go goes by the time of its last use, and a use of a response is a use of all those
before it, so a chain loses its latest responses first and never its middle.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from serving.errors import ErrorKind, ServingError
from serving.settings import Store
from serving.store.conversations import append_items
from serving.store.database import Database
from serving.store.room import make_room, since

Json = dict[str, Any]

_CHAIN = """
WITH RECURSIVE chain (id, previous, depth) AS (
  SELECT id, previous, 0 FROM responses WHERE id = :id AND tenant = :tenant AND used >= :since
  UNION ALL
  SELECT r.id, r.previous, depth + 1 FROM responses r JOIN chain ON r.id = chain.previous
  WHERE r.tenant = :tenant
)
"""
_CHAIN_BYTES = f"{_CHAIN} SELECT sum(bytes) FROM chain JOIN responses USING (id)"  # noqa: S608
_CHAIN_ROWS = f"""{_CHAIN}
SELECT r.body, r.input, r.previous FROM chain JOIN responses r USING (id) ORDER BY depth DESC
"""  # noqa: S608
_CHAIN_TOUCH = f"{_CHAIN} UPDATE responses SET used = :now WHERE id IN (SELECT id FROM chain)"  # noqa: S608


class Stored(NamedTuple):
    """One response: the object as it was sent, as JSON, and the items of its own input.

    `events` is what its stream was, for one whose stream is kept.
    """

    body: bytes
    input: list[Json]
    events: bytes | None


class ResponseStore:
    """Keeps responses across restarts. `now` is the time of day in seconds since 1970."""

    def __init__(self, database: Database, settings: Store, now: Callable[[], float]) -> None:
        self._database = database
        self._settings = settings
        self._now = now

    async def save(
        self,
        tenant: str,
        body: Json,
        items: Sequence[Json],
        *,
        kept: bool = True,
        conversation: str | None = None,
        events: bytes | None = None,
    ) -> bool:
        """Returns whether the response, and the items of its own input, are on disk now.

        It takes the place of one with the same id, unless it is not to be `kept`. `events` is what
        its stream was, for one whose stream can be read later. Its items are
        added to the conversation in the same transaction. It is not on disk where it alone, or its
        chain, is larger than the store may be.
        """

        def work(database: sqlite3.Connection) -> bool:
            now = self._now()
            number = self._put(database, tenant, body, items, events, now) if kept else None
            if conversation is not None:
                append_items(database, tenant, conversation, [*items, *body["output"]], now)
            make_room(database, self._settings, now)
            row = database.execute("SELECT 1 FROM responses WHERE number = ?", (number,))
            return row.fetchone() is not None

        try:
            return await self._database.run(work)
        except ServingError:
            return False

    async def load(self, tenant: str, response_id: str) -> Stored | None:
        """Returns a response, or None where there is none. Raises ServingError."""

        def work(database: sqlite3.Connection) -> Stored | None:
            row = database.execute(
                "SELECT body, input, events FROM responses "
                "WHERE id = ? AND tenant = ? AND used >= ?",
                (response_id, tenant, self._since()),
            ).fetchone()
            if row is None:
                return None
            events = None if row[2] is None else zlib.decompress(row[2])
            return Stored(row[0], msgspec.json.decode(row[1]), events)

        return await self._database.run(work)

    async def chain(self, tenant: str, response_id: str, max_bytes: int) -> list[Json] | None:
        """Returns the items, input and output, of a response and of all before it, oldest first.

        None where the response or one before it is not there. Raises ServingError, also for more
        than `max_bytes`.
        """

        def work(database: sqlite3.Connection) -> list[Json] | None:
            key = {"id": response_id, "tenant": tenant, "since": self._since()}
            (size,) = database.execute(_CHAIN_BYTES, key).fetchone()
            if size is not None and size > max_bytes:
                raise ServingError(
                    ErrorKind.CONTEXT_LENGTH,
                    f"The conversation has more than {max_bytes} bytes.",
                    param="previous_response_id",
                )
            rows = database.execute(_CHAIN_ROWS, key).fetchall()
            if not rows or rows[0][2] is not None:
                return None
            self._touch(database, tenant, response_id, self._now())
            items: list[Json] = []
            for body, given, _ in rows:
                items += msgspec.json.decode(given)
                items += msgspec.json.decode(body)["output"]
            return items

        return await self._database.run(work)

    async def items(self, tenant: str, ids: Sequence[str]) -> dict[str, Json]:
        """Returns those of the items, of responses and conversations, that are there, by id.

        Raises ServingError.
        """

        def work(database: sqlite3.Connection) -> dict[str, Json]:
            found: dict[str, Json] = {}
            for name in ids:
                if name not in found:
                    found.update(self._item(database, tenant, name))
            return {name: found[name] for name in ids if name in found}

        return await self._database.run(work)

    async def delete(self, tenant: str, response_id: str) -> bool:
        """Returns whether there was such a response; its bytes are overwritten on disk.

        Raises ServingError.
        """

        def work(database: sqlite3.Connection) -> bool:
            return bool(
                database.execute(
                    "DELETE FROM responses WHERE id = ? AND tenant = ? AND used >= ?",
                    (response_id, tenant, self._since()),
                ).rowcount
            )

        return await self._database.run(work)

    def _put(
        self,
        database: sqlite3.Connection,
        tenant: str,
        body: Json,
        items: Sequence[Json],
        events: bytes | None,
        now: float,
    ) -> int | None:
        """Writes a response and returns its number."""
        encoded, given = msgspec.json.encode(body), msgspec.json.encode(items)
        packed = None if events is None else zlib.compress(events, level=1)
        database.execute("DELETE FROM responses WHERE id = ? AND tenant = ?", (body["id"], tenant))
        cursor = database.execute(
            "INSERT INTO responses (id, tenant, previous, used, bytes, body, input, events) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(body["id"], tenant, body["previous_response_id"], now),
                *(len(encoded) + len(given) + len(packed or b""), encoded, given, packed),
            ),
        )
        database.executemany(
            "INSERT OR IGNORE INTO items (id, response) VALUES (?, ?)",
            [(item["id"], body["id"]) for item in (*items, *body["output"])],
        )
        self._touch(database, tenant, body["id"], now)
        return cursor.lastrowid

    def _item(self, database: sqlite3.Connection, tenant: str, name: str) -> dict[str, Json]:
        """Returns one item, where it is there, with others that are in the same place."""
        row = database.execute(
            "SELECT r.body, r.input FROM items i JOIN responses r ON r.id = i.response "
            "WHERE i.id = ? AND r.tenant = ? AND r.used >= ?",
            (name, tenant, self._since()),
        ).fetchone()
        if row is not None:
            output = msgspec.json.decode(row[0])["output"]
            return {item["id"]: item for item in (*msgspec.json.decode(row[1]), *output)}
        row = database.execute(
            "SELECT i.body FROM conversation_items i JOIN conversations c "
            "ON c.id = i.conversation WHERE i.id = ? AND c.tenant = ? AND c.used >= ?",
            (name, tenant, self._since()),
        ).fetchone()
        return {} if row is None else {name: msgspec.json.decode(row[0])}

    def _since(self) -> float:
        return since(self._settings, self._now())

    def _touch(
        self, database: sqlite3.Connection, tenant: str, response_id: str, now: float
    ) -> None:
        key = {"id": response_id, "tenant": tenant, "since": self._since(), "now": now}
        database.execute(_CHAIN_TOUCH, key)

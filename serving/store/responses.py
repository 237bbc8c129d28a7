"""Responses on disk, bounded in number, bytes and time.

A conversation by `previous_response_id` is a chain of responses, each with the input that it
brought; the items of the whole chain are read with one query.

Whatever must go goes by the time of its last use, and a use of a response is a use of all those
before it, so a chain loses its latest responses first and never its middle.

A response in the making has two bodies: what is true while the process lives that makes it, and
what is true should that end before. Its end is written only where it is still in the making, so
one that was deleted meanwhile does not come back.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from serving.errors import ErrorKind, ServingError
from serving.settings import Store
from serving.store.conversations import append_items
from serving.store.database import Database
from serving.store.eviction import evict, since

Json = dict[str, Any]
Object = Mapping[str, Any]

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
_CHAIN_TOUCH = f"""{_CHAIN}
UPDATE responses SET used = max(used, :now) WHERE id IN (SELECT id FROM chain)
"""  # noqa: S608


class Stored(NamedTuple):
    """One response: the object as it was sent, as JSON, and the items of its own input.

    `events` is what its stream was, for one whose stream is kept. `running`: a process makes it.
    """

    body: bytes
    input: list[Json]
    events: bytes | None
    running: bool


class ResponseStore:
    """Keeps responses across restarts. `now` is the time of day in seconds since 1970."""

    def __init__(self, database: Database, settings: Store, now: Callable[[], float]) -> None:
        self._database = database
        self._settings = settings
        self._now = now

    async def begin(
        self,
        tenant: str,
        body: Object,
        items: Sequence[Json],
        *,
        lost: Object,
        events: bytes | None,
    ) -> bool:
        """Returns whether a response that this process makes now is on disk, as `save` does.

        It is read as `body` while this process lives, and then, unless it is saved before, as
        `lost`. Raises ServingError.
        """

        def work(database: sqlite3.Connection) -> bool:
            now = self._now()
            number = self._put(database, tenant, lost, items, events, now)
            if not self._fits(database, number, now):
                return False
            database.execute(
                "INSERT INTO running (id, owner, body) VALUES (?, ?, ?)",
                (body["id"], self._database.owner.name(), msgspec.json.encode(body)),
            )
            return True

        return await self._database.write(work)

    async def save(
        self,
        tenant: str,
        body: Object,
        items: Sequence[Json],
        *,
        kept: bool = True,
        conversation: str | None = None,
        events: bytes | None = None,
        begun: bool = False,
    ) -> bool:
        """Returns whether the response, and the items of its own input, are on disk now.

        It is the end of one that has `begun` there. `events` is what its stream was, for one whose
        stream can be read later. Its items are added to the conversation in the same transaction,
        also where it is not to be `kept` itself. It is not on disk where it alone, or its chain, is
        larger than the store may be. Of one that has begun and was deleted, nothing is written.
        Raises ServingError.
        """

        def work(database: sqlite3.Connection) -> bool:
            now, number = self._now(), None
            if begun and self._runs(database, body["id"]) is None:
                return False
            if kept:
                number = self._put(database, tenant, body, items, events, now)
            if conversation is not None:
                append_items(database, tenant, conversation, [*items, *body["output"]], now)
            return self._fits(database, number, now)

        return await self._database.write(work)

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
            now = self._runs(database, response_id)
            body = row[0] if now is None else now
            return Stored(body, msgspec.json.decode(row[1]), events, now is not None)

        return await self._database.read(work)

    async def has(self, tenant: str, ids: Collection[str]) -> bool:
        """Returns whether all of these responses are there. Raises ServingError."""

        def work(database: sqlite3.Connection) -> bool:
            rows = database.execute(
                "SELECT count(*) FROM json_each(?) JOIN responses ON responses.id = value "
                "WHERE tenant = ? AND used >= ?",
                (msgspec.json.encode([*ids]).decode(), tenant, self._since()),
            )
            return bool(rows.fetchone()[0] == len(ids))

        return await self._database.read(work)

    async def chain(self, tenant: str, response_id: str, max_bytes: int) -> list[Json] | None:
        """Returns the items, input and output, of a response and of all before it, oldest first.

        None where the response or one before it is not there. Raises ServingError, also for more
        than `max_bytes`, and for a response that a process makes.
        """

        def work(database: sqlite3.Connection) -> list[Json] | None:
            if self._runs(database, response_id):
                raise unfinished()
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
            items: list[Json] = []
            for body, given, _ in rows:
                items += msgspec.json.decode(given)
                items += msgspec.json.decode(body)["output"]
            return items

        def touch(database: sqlite3.Connection) -> None:
            self._touch(database, tenant, response_id, now)

        now = self._now()
        found = await self._database.read(work)
        if found is not None:
            self._database.write_behind(touch)
        return found

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

        return await self._database.read(work)

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

        return await self._database.write(work)

    async def call_off(self, tenant: str, response_id: str) -> None:
        """Tells the process that makes a response to end it. Raises ServingError."""

        def work(database: sqlite3.Connection) -> None:
            database.execute(
                "UPDATE running SET called_off = 1 "
                "WHERE id IN (SELECT id FROM responses WHERE id = ? AND tenant = ?)",
                (response_id, tenant),
            )

        await self._database.write(work)

    async def uncancelled(self, ids: Collection[str]) -> set[str]:
        """Returns those of the responses in the making that nobody has called off or deleted.

        Raises ServingError.
        """

        def work(database: sqlite3.Connection) -> set[str]:
            rows = database.execute("SELECT id FROM running WHERE NOT called_off").fetchall()
            return {name for (name,) in rows} & set(ids)

        return await self._database.read(work)

    def _fits(self, database: sqlite3.Connection, number: int | None, now: float) -> bool:
        """Returns whether the response of that number is there when the bounds hold."""
        for (owner,) in database.execute("SELECT DISTINCT owner FROM running").fetchall():
            if not self._database.owner.lives(owner):
                database.execute("DELETE FROM running WHERE owner = ?", (owner,))
        evict(database, self._settings, now)
        row = database.execute("SELECT 1 FROM responses WHERE number = ?", (number,))
        return row.fetchone() is not None

    def _runs(self, database: sqlite3.Connection, response_id: str) -> bytes | None:
        """Returns the body of a response while the process lives that makes it, else None."""
        row = database.execute(
            "SELECT owner, body FROM running WHERE id = ?", (response_id,)
        ).fetchone()
        return row[1] if row is not None and self._database.owner.lives(row[0]) else None

    def _put(
        self,
        database: sqlite3.Connection,
        tenant: str,
        body: Object,
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
        begin = since(self._settings, now)
        key = {"id": response_id, "tenant": tenant, "since": begin, "now": now}
        database.execute(_CHAIN_TOUCH, key)


def unfinished() -> ServingError:
    """Returns the error for a conversation that is to go on from a response in the making."""
    return ServingError(
        ErrorKind.INVALID_VALUE,
        "That response has not come to its end.",
        param="previous_response_id",
    )

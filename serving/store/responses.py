"""Responses on disk: an SQLite database, bounded in number, bytes and time.

One thread owns the connection, so no request waits for another's disk on the event loop. The
database is opened with the first use; a process that stores nothing touches nothing. A conversation
is a chain of responses, each with the input that it brought; the items of the whole chain are read
with one query.

Whatever must go goes by the time of its last use, and a use of a response is a use of all those
before it, so a conversation loses its latest responses first and never its middle.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from serving.errors import ErrorKind, ServingError
from serving.settings import Store

VERSION = 1
"""Of the tables. A database of another version is not touched."""

Result = TypeVar("Result")
Json = dict[str, Any]

_SCHEMA = f"""
BEGIN;
CREATE TABLE responses (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  tenant TEXT NOT NULL,
  previous TEXT,
  used REAL NOT NULL,
  bytes INTEGER NOT NULL,
  body BLOB NOT NULL,
  input BLOB NOT NULL
);
CREATE INDEX responses_by_use ON responses (used, number DESC, bytes);
CREATE TABLE items (
  id TEXT PRIMARY KEY,
  response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX items_by_response ON items (response);
PRAGMA user_version = {VERSION};
COMMIT;
"""

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
    """One response: the object as it was sent, as JSON, and the items of its own input."""

    body: bytes
    input: list[Json]


class ResponseStore:
    """Keeps responses across restarts.

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
        self._path = path
        self._settings = settings
        self._now = now
        self._on_failure = on_failure
        self._database: sqlite3.Connection | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="response-store")

    async def save(self, tenant: str, body: Json, items: Sequence[Json]) -> bool:
        """Returns whether the response, and the items of its own input, are on disk now.

        It takes the place of one with the same id.
        It is not where it alone, or its conversation, is larger than the store may be.
        """
        encoded = msgspec.json.encode(body)
        given = msgspec.json.encode(items)
        ids = [item["id"] for item in (*items, *body["output"])]

        def work(database: sqlite3.Connection) -> bool:
            with database:
                now = self._now()
                database.execute(
                    "DELETE FROM responses WHERE id = ? AND tenant = ?", (body["id"], tenant)
                )
                cursor = database.execute(
                    "INSERT INTO responses (id, tenant, previous, used, bytes, body, input) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(body["id"], tenant, body["previous_response_id"], now),
                        *(len(encoded) + len(given), encoded, given),
                    ),
                )
                database.executemany(
                    "INSERT OR IGNORE INTO items (id, response) VALUES (?, ?)",
                    [(name, body["id"]) for name in ids],
                )
                self._touch(database, tenant, body["id"], now)
                self._shrink(database, now)
                kept = database.execute(
                    "SELECT 1 FROM responses WHERE number = ?", (cursor.lastrowid,)
                ).fetchone()
            return kept is not None

        try:
            return await self._run(work)
        except ServingError:
            return False

    async def load(self, tenant: str, response_id: str) -> Stored | None:
        """Returns a response, or None where there is none. Raises ServingError."""

        def work(database: sqlite3.Connection) -> Stored | None:
            row = database.execute(
                "SELECT body, input FROM responses WHERE id = ? AND tenant = ? AND used >= ?",
                (response_id, tenant, self._since()),
            ).fetchone()
            return row and Stored(row[0], msgspec.json.decode(row[1]))

        return await self._run(work)

    async def conversation(
        self, tenant: str, response_id: str, max_bytes: int
    ) -> list[Json] | None:
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
            with database:
                self._touch(database, tenant, response_id, self._now())
            items: list[Json] = []
            for body, given, _ in rows:
                items += msgspec.json.decode(given)
                items += msgspec.json.decode(body)["output"]
            return items

        return await self._run(work)

    async def items(self, tenant: str, ids: Sequence[str]) -> dict[str, Json]:
        """Returns those of the items that are there, by id. Raises ServingError."""

        def work(database: sqlite3.Connection) -> dict[str, Json]:
            found: dict[str, Json] = {}
            for name in ids:
                row = database.execute(
                    "SELECT r.body, r.input FROM items i JOIN responses r ON r.id = i.response "
                    "WHERE i.id = ? AND r.tenant = ? AND r.used >= ?",
                    (name, tenant, self._since()),
                ).fetchone()
                if row is not None and name not in found:
                    output = msgspec.json.decode(row[0])["output"]
                    for item in (*output, *msgspec.json.decode(row[1])):
                        found.setdefault(item["id"], item)
            return {name: found[name] for name in ids if name in found}

        return await self._run(work)

    async def delete(self, tenant: str, response_id: str) -> bool:
        """Returns whether there was such a response; its bytes are overwritten on disk.

        Raises ServingError.
        """

        def work(database: sqlite3.Connection) -> bool:
            with database:
                return bool(
                    database.execute(
                        "DELETE FROM responses WHERE id = ? AND tenant = ? AND used >= ?",
                        (response_id, tenant, self._since()),
                    ).rowcount
                )

        return await self._run(work)

    async def close(self) -> None:
        """Closes the database and ends the thread. Idempotent."""

        def work() -> None:
            if self._database is not None:
                self._database.close()
                self._database = None

        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, work)
            self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Returns what `work` returns in the store's thread. Raises ServingError."""

        def run() -> Result:
            if self._database is None:
                self._database = open_database(self._path)
            return work(self._database)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, run)
        except (sqlite3.Error, OSError) as error:
            self._on_failure(f"{self._path}: {error}")
            raise ServingError(
                ErrorKind.INTERNAL, "The store of responses cannot be used."
            ) from None

    def _since(self) -> float:
        """Returns the time of the last use before which responses are as good as gone."""
        return self._now() - self._settings.keep_seconds

    def _touch(
        self, database: sqlite3.Connection, tenant: str, response_id: str, now: float
    ) -> None:
        key = {"id": response_id, "tenant": tenant, "since": self._since(), "now": now}
        database.execute(_CHAIN_TOUCH, key)

    def _shrink(self, database: sqlite3.Connection, now: float) -> None:
        """Deletes what is too old, then what was used longest ago, until the bounds hold."""
        settings = self._settings
        database.execute("DELETE FROM responses WHERE used < ?", (self._since(),))
        count, size = database.execute("SELECT count(*), sum(bytes) FROM responses").fetchone()
        doomed: list[tuple[int]] = []
        oldest = database.execute("SELECT number, bytes FROM responses ORDER BY used, number DESC")
        while count > settings.max_responses or (size or 0) > settings.max_bytes:
            number, freed = oldest.fetchone()
            doomed.append((number,))
            count, size = count - 1, size - freed
        oldest.close()
        database.executemany("DELETE FROM responses WHERE number = ?", doomed)


def open_database(path: Path) -> sqlite3.Connection:
    """Returns a connection to the database in `path`, made for its owner alone if it is not there.

    Raises sqlite3.Error or OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    database = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
    try:
        database.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;"
            "PRAGMA secure_delete = ON; PRAGMA journal_size_limit = 16777216;"
        )
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            database.executescript(_SCHEMA)
        elif version != VERSION:
            raise sqlite3.DatabaseError(f"has tables of version {version}, not {VERSION}")
    except BaseException:
        database.close()
        raise
    return database

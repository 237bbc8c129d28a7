"""The SQLite database in which clients' responses and conversations are.

One thread owns the connection, so no request waits for another's disk on the event loop. The
database is opened with the first use; a process that stores nothing touches nothing.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from serving.errors import ErrorKind, ServingError

VERSION = 3
"""Of the tables. A database of a later version is not touched; one of an earlier is brought up."""

Result = TypeVar("Result")

# What each version brought, the first at the beginning.
_STEPS = (
    """
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
""",
    """
CREATE TABLE conversations (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  tenant TEXT NOT NULL,
  created INTEGER NOT NULL,
  used REAL NOT NULL,
  bytes INTEGER NOT NULL,
  metadata BLOB NOT NULL
);
CREATE INDEX conversations_by_use ON conversations (used, number DESC, bytes);
CREATE TABLE conversation_items (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
  id TEXT NOT NULL,
  body BLOB NOT NULL,
  UNIQUE (conversation, id)
);
CREATE INDEX conversation_items_in_order ON conversation_items (conversation, number);
CREATE INDEX conversation_items_by_id ON conversation_items (id);
""",
    "ALTER TABLE responses ADD COLUMN events BLOB;",
)


class Database:
    """Runs work on the database of `path`, one piece after the other, in a thread of its own.

    `on_failure` is told why the database cannot be used; clients learn only that it cannot.
    """

    def __init__(self, path: Path, on_failure: Callable[[str], None]) -> None:
        self._path = path
        self._on_failure = on_failure
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="response-store")

    async def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Returns what `work` returns; it is one transaction. Raises ServingError."""

        def transact() -> Result:
            if self._connection is None:
                self._connection = open_database(self._path)
            with self._connection:
                return work(self._connection)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, transact)
        except (sqlite3.Error, OSError) as error:
            self._on_failure(f"{self._path}: {error}")
            raise ServingError(
                ErrorKind.INTERNAL, "The store of responses cannot be used."
            ) from None

    async def close(self) -> None:
        """Closes the database and ends the thread. Idempotent."""

        def work() -> None:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, work)
            self._thread.shutdown(wait=False)


def open_database(path: Path) -> sqlite3.Connection:
    """Returns a connection to the database in `path`, made for its owner alone if it is not there.

    Raises sqlite3.Error or OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
    try:
        connection.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;"
            "PRAGMA secure_delete = ON; PRAGMA journal_size_limit = 16777216;"
        )
        _bring_up(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _bring_up(connection: sqlite3.Connection) -> None:
    """Makes the tables of this version, from whatever earlier version. One process does it."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise sqlite3.DatabaseError(f"has tables of version {version}, not {VERSION}")
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for statement in "".join(_STEPS[version:]).split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.commit()

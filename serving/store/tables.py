"""The tables of the SQLite database in which clients' responses and conversations are."""

from __future__ import annotations

import sqlite3
from pathlib import Path

VERSION = 4
"""Of the tables. A database of a later version is not touched; one of an earlier is brought up."""

# What each version brought, the first at the beginning.
STEPS = (
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
    """
CREATE TABLE running (
  id TEXT PRIMARY KEY REFERENCES responses (id) ON DELETE CASCADE,
  owner TEXT NOT NULL,
  called_off INTEGER NOT NULL DEFAULT 0,
  body BLOB NOT NULL
) WITHOUT ROWID;
""",
)


def open_tables(path: Path, wait_seconds: float) -> sqlite3.Connection:
    """Returns a connection to the database in `path`, made for its owner alone if it is not there.

    It waits `wait_seconds` for a lock. Transactions are begun by hand. Raises sqlite3.Error or
    OSError.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
    connection = sqlite3.connect(
        path, timeout=wait_seconds, isolation_level=None, check_same_thread=False
    )
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
    for statement in "".join(STEPS[version:]).split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.commit()

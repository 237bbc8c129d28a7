"""The database: earlier tables are brought up to date, a transaction is whole or not at all."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from serving.settings import Store
from serving.store.access import Change
from serving.store.database import Database
from serving.store.tables import STEPS, VERSION, open_tables
from tests.serving.store.shelf import PLENTY, TENANT, Shelf, item


def _of_version_one(path: Path) -> None:
    """Makes the tables of the first version, with a response."""
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.executescript(STEPS[0] + "PRAGMA user_version = 1;")
    connection.execute(
        "INSERT INTO responses (id, tenant, used, bytes, body, input) VALUES (?, ?, ?, ?, ?, ?)",
        ("a", TENANT, 1000.0, 20, b'{"id":"a","output":[]}', b"[]"),
    )
    connection.commit()
    connection.close()


async def test_tables_of_an_earlier_version_are_brought_up_with_what_they_hold(
    shelf: Shelf,
) -> None:
    _of_version_one(shelf.path)
    stores = shelf.open()
    assert await stores.responses.chain(TENANT, "a", PLENTY) == []
    await stores.conversations.create(TENANT, "c", {}, [item("i")])
    await stores.close()
    again = open_tables(shelf.path, 1.0)
    assert again.execute("PRAGMA user_version").fetchone() == (VERSION,)
    again.close()
    assert not shelf.changes


async def test_work_that_raises_leaves_nothing(tmp_path: Path) -> None:
    changes: list[Change] = []
    broken = Database(tmp_path / "x.sqlite3", Store(), changes.append, lambda way, reason: None)

    def work(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO conversations (id, tenant, created, used, bytes, metadata) "
            "VALUES ('c', 't', 1, 1, 0, '{}')"
        )
        raise LookupError

    with pytest.raises(LookupError):
        await broken.write(work)
    count = await broken.read(
        lambda connection: connection.execute("SELECT count(*) FROM conversations").fetchone()
    )
    assert count == (0,)
    await broken.close()
    assert not changes

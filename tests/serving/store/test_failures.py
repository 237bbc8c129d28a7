"""A store that is locked, full, forbidden, damaged or gone: one wait, then none, until it works."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.errors import ErrorKind, ServingError
from serving.store.access import Way
from serving.store.failure import Reason
from serving.store.stores import Stores
from serving.store.tables import VERSION
from tests.serving.protocols.edge.server import until
from tests.serving.store.shelf import PLENTY, TENANT, Shelf, item, locked

QUICK = {"wait_seconds": 0.2, "bypass_seconds": 0.2}
PATIENT = {"wait_seconds": 0.2, "bypass_seconds": 60.0}


def body(name: str, text: str = "") -> dict[str, Any]:
    return {"id": name, "previous_response_id": None, "output": [item(f"out_{name}", text)]}


async def put(stores: Stores, name: str, text: str = "") -> bool:
    return await stores.responses.save(TENANT, body(name, text), [])


async def refused(stores: Stores, name: str = "late", text: str = "") -> ServingError:
    with pytest.raises(ServingError) as failed:
        await put(stores, name, text)
    assert failed.value.kind is ErrorKind.STORE_UNAVAILABLE
    assert failed.value.retry_after_seconds is not None
    return failed.value


async def works_again(stores: Stores) -> None:
    await until(lambda: stores.state == "ok")


def told(shelf: Shelf) -> list[tuple[Way, Reason | None]]:
    return [(change.way, change.reason) for change in shelf.changes]


async def test_of_many_that_meet_a_lock_none_waits_longer_than_one(shelf: Shelf) -> None:
    stores = shelf.open(**PATIENT)
    await put(stores, "a")
    with locked(shelf.path):
        began = time.monotonic()
        await asyncio.gather(*(refused(stores, f"r{n}") for n in range(20)))
        # Twenty waits of a fifth of a second are four.
        assert time.monotonic() - began < 2.0
        assert stores.state == "read_only"
        assert await stores.responses.load(TENANT, "a") is not None
    assert told(shelf) == [(Way.WRITE, Reason.LOCKED)]
    assert (await refused(stores)).retry_after_seconds == pytest.approx(60, abs=30)
    assert shelf.undone == [(Way.WRITE, Reason.LOCKED)] * 21


async def test_reading_a_chain_or_a_conversation_needs_no_lock(shelf: Shelf) -> None:
    stores = shelf.open(wait_seconds=30.0)
    await put(stores, "a")
    await stores.conversations.create(TENANT, "c", {}, [item("i")])
    with locked(shelf.path):
        async with asyncio.timeout(15):
            assert await stores.responses.chain(TENANT, "a", PLENTY) == [item("out_a")]
            assert await stores.conversations.items(TENANT, "c", PLENTY) == [item("i")]
            assert await stores.responses.items(TENANT, ["out_a"])
            assert await stores.conversations.load(TENANT, "c")
    assert not shelf.changes


async def test_it_is_found_to_work_again_although_nobody_asks(shelf: Shelf) -> None:
    stores = shelf.open(**QUICK)
    await put(stores, "a")
    with locked(shelf.path):
        await refused(stores)
        with pytest.raises(ServingError):
            stores.conversations.lock(TENANT, "c")
    await works_again(stores)
    assert await put(stores, "b")
    assert told(shelf) == [(Way.WRITE, Reason.LOCKED), (Way.WRITE, None)]


async def test_a_disk_without_room_keeps_what_is_there(shelf: Shelf) -> None:
    stores = shelf.open(**PATIENT)
    await put(stores, "a")

    def fill(database: sqlite3.Connection) -> None:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")

    await stores._database.write(fill)
    await refused(stores, "b", "x" * 100_000)
    assert told(shelf) == [(Way.WRITE, Reason.FULL)]
    assert await stores.responses.load(TENANT, "a") is not None


async def test_a_file_that_may_not_grow_is_no_different(shelf: Shelf) -> None:
    stores = shelf.open(**QUICK)
    await put(stores, "a")
    assert await stores.responses.load(TENANT, "a") is not None
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (shelf.path.stat().st_size, before[1]))
    try:
        await refused(stores, "b", os.urandom(500_000).hex())
        assert await stores.responses.load(TENANT, "a") is not None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    await works_again(stores)
    assert await put(stores, "b")


def _not_a_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"nonsense" * 1000)


def _another_version(path: Path) -> None:
    path.parent.mkdir()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()


def _no_directory(path: Path) -> None:
    path.parent.write_text("a file")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_not_a_database, Reason.DAMAGED),
        (_another_version, Reason.OTHER),
        (_no_directory, Reason.FORBIDDEN),
    ],
)
async def test_one_that_cannot_be_opened_is_named_to_the_operator_alone(
    shelf: Shelf, harm: Callable[[Path], None], reason: Reason
) -> None:
    harm(shelf.path)
    stores = shelf.open(**PATIENT)
    assert str(shelf.path) not in (await refused(stores)).message
    with pytest.raises(ServingError) as failed:
        await stores.responses.load(TENANT, "a")
    assert failed.value.kind is ErrorKind.STORE_UNAVAILABLE
    assert stores.state == "unavailable"
    assert told(shelf) == [(Way.WRITE, reason), (Way.READ, reason)]
    assert all(str(shelf.path) in change.detail for change in shelf.changes)


async def test_a_file_that_is_damaged_while_it_is_open(shelf: Shelf) -> None:
    stores = shelf.open(**PATIENT)
    await put(stores, "a", "x" * 50_000)
    await stores.close()
    stores = shelf.open(**PATIENT)
    await stores.responses.load(TENANT, "no")
    with shelf.path.open("r+b") as file:
        file.write(b"\xff" * shelf.path.stat().st_size)
    with pytest.raises(ServingError) as failed:
        await stores.responses.load(TENANT, "a")
    assert failed.value.kind is ErrorKind.STORE_UNAVAILABLE
    await refused(stores)


async def test_a_row_that_is_damaged_costs_no_other(shelf: Shelf) -> None:
    stores = shelf.open(**PATIENT)
    await put(stores, "a")
    await put(stores, "b")
    with sqlite3.connect(shelf.path) as other:
        other.execute("UPDATE responses SET input = X'00ff' WHERE id = 'a'")
    other.close()
    with pytest.raises(ServingError) as failed:
        await stores.responses.load(TENANT, "a")
    assert failed.value.kind is ErrorKind.STORE_UNAVAILABLE
    assert shelf.undone == [(Way.READ, Reason.DAMAGED)]
    assert await stores.responses.load(TENANT, "b") is not None
    assert stores.state == "ok"


async def test_a_file_that_was_taken_away_is_not_written_to_any_more(shelf: Shelf) -> None:
    """SQLite would keep on writing to the file without a name, and all would be lost at its end."""
    stores = shelf.open(**PATIENT)
    await put(stores, "a")
    for file in shelf.path.parent.iterdir():
        file.unlink()
    shelf.path.parent.rmdir()
    assert await put(stores, "b")
    assert await stores.responses.load(TENANT, "a") is None
    assert shelf.path.exists()
    await stores.close()
    assert await shelf.open().responses.load(TENANT, "b") is not None


def allow(mode: int, *paths: Path) -> None:
    """Gives these paths these rights."""
    for path in paths:
        path.chmod(mode)


def files(directory: Path) -> list[Path]:
    """Returns all that is in a directory."""
    return list(directory.iterdir())


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A directory of this user, who has no rights but its own while the test runs."""
    user, other = os.geteuid(), 65534
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if user == 0:
            os.chown(directory, other, other)
            os.seteuid(other)
        try:
            yield directory
        finally:
            os.seteuid(user)
            allow(0o700, directory, *directory.rglob("*"))


async def test_a_file_without_the_right_to_write_is_read(shelf: Shelf, nobody: Path) -> None:
    shelf.path = nobody / "kept.sqlite3"
    stores = shelf.open(**QUICK)
    await put(stores, "a")
    await stores.close()
    allow(0o400, shelf.path)
    stores = shelf.open(**QUICK)
    await refused(stores)
    assert await stores.responses.load(TENANT, "a") is not None
    assert stores.state == "read_only"
    assert told(shelf) == [(Way.WRITE, Reason.READ_ONLY)]
    allow(0o600, *files(nobody))  # what SQLite makes beside the file has its rights
    await works_again(stores)
    assert await put(stores, "b")


async def test_a_directory_without_rights(shelf: Shelf, nobody: Path) -> None:
    allow(0o500, nobody)
    shelf.path = nobody / "state" / "kept.sqlite3"
    stores = shelf.open(**QUICK)
    await refused(stores)
    assert told(shelf) == [(Way.WRITE, Reason.FORBIDDEN)]
    allow(0o700, nobody)
    await works_again(stores)
    assert await put(stores, "a")


async def test_a_disk_that_does_not_answer_is_not_waited_for(shelf: Shelf) -> None:
    stores = shelf.open(wait_seconds=0.1, bypass_seconds=0.1)
    await put(stores, "a")
    answered = False

    def hang(database: sqlite3.Connection) -> None:
        database.execute("DELETE FROM responses")
        while not answered:
            time.sleep(0.01)

    with pytest.raises(ServingError) as failed:
        await stores._database.write(hang)
    assert failed.value.kind is ErrorKind.STORE_UNAVAILABLE
    assert told(shelf) == [(Way.WRITE, Reason.SLOW)]
    answered = True
    await works_again(stores)
    # What was given up has not happened.
    assert await stores.responses.load(TENANT, "a") is not None


async def test_several_can_make_the_file_at_the_same_time(shelf: Shelf) -> None:
    several = [shelf.open(**QUICK) for _ in range(8)]
    assert all(await asyncio.gather(*(put(one, f"r{n}") for n, one in enumerate(several))))
    assert not shelf.changes

"""The store of responses: durable, bounded, private."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from serving.errors import ErrorKind, ServingError
from serving.store.responses import ResponseStore
from tests.serving.store.shelf import PLENTY, TENANT, Shelf, item


def body(name: str, previous: str | None = None, text: str = "") -> dict[str, Any]:
    output = [item(f"out_{name}", text)]
    return {"id": name, "previous_response_id": previous, "output": output}


async def put(store: ResponseStore, name: str, previous: str | None = None, text: str = "") -> bool:
    return await store.save(TENANT, body(name, previous, text), [item(f"in_{name}")])


async def chain(store: ResponseStore, name: str) -> list[str] | None:
    items = await store.chain(TENANT, name, PLENTY)
    return None if items is None else [item["id"] for item in items]


async def present(store: ResponseStore, *names: str) -> list[str]:
    return [name for name in names if await store.load(TENANT, name) is not None]


async def test_a_conversation_is_read_in_order_also_after_a_restart(shelf: Shelf) -> None:
    stores = shelf.open()
    assert await put(stores.responses, "a")
    assert await put(stores.responses, "b", "a")
    await stores.close()
    second = shelf.open().responses
    assert await chain(second, "b") == ["in_a", "out_a", "in_b", "out_b"]
    stored = await second.load(TENANT, "a")
    assert stored is not None
    assert stored.input == [item("in_a")]


async def test_nothing_is_touched_before_the_first_use(shelf: Shelf) -> None:
    store = shelf.open().responses
    assert not shelf.path.parent.exists()
    await put(store, "a")
    assert shelf.path.stat().st_mode & 0o777 == 0o600
    assert shelf.path.parent.stat().st_mode & 0o777 == 0o700


async def test_tenants_do_not_see_each_other(shelf: Shelf) -> None:
    store = shelf.open().responses
    await put(store, "a")
    assert await store.load("other", "a") is None
    assert await store.chain("other", "a", PLENTY) is None
    assert await store.items("other", ["in_a"]) == {}
    assert not await store.delete("other", "a")
    assert await present(store, "a")


async def test_items_are_found_by_id(shelf: Shelf) -> None:
    store = shelf.open().responses
    await put(store, "a", text="hi")
    found = await store.items(TENANT, ["out_a", "in_a", "no"])
    assert found == {"out_a": item("out_a", "hi"), "in_a": item("in_a")}


async def test_what_is_deleted_is_gone_from_the_disk_and_cannot_be_continued(
    shelf: Shelf,
) -> None:
    stores = shelf.open()
    store = stores.responses
    await put(store, "a", text="secret words")
    await put(store, "b", "a")
    assert await store.delete(TENANT, "a")
    assert not await store.delete(TENANT, "a")
    assert await chain(store, "b") is None
    assert await store.items(TENANT, ["out_a"]) == {}
    await stores.close()
    assert b"secret words" not in shelf.path.read_bytes()


async def test_the_number_is_bounded_and_the_one_used_longest_ago_goes_first(
    shelf: Shelf,
) -> None:
    store = shelf.open(max_responses=3).responses
    for name in ("a", "b", "c"):
        await put(store, name)
        shelf.clock.seconds += 1
    assert await chain(store, "a")
    shelf.clock.seconds += 1
    await put(store, "d")
    assert await present(store, "a", "b", "c", "d") == ["a", "c", "d"]


async def test_a_conversation_loses_its_end_before_its_beginning(shelf: Shelf) -> None:
    store = shelf.open(max_responses=4).responses
    for name, previous in (("a", None), ("b", "a"), ("c", "b")):
        await put(store, name, previous)
        shelf.clock.seconds += 1
    await put(store, "x")
    shelf.clock.seconds += 1
    await put(store, "y")
    assert await present(store, "a", "b", "c", "x", "y") == ["a", "b", "x", "y"]
    assert await chain(store, "b") == ["in_a", "out_a", "in_b", "out_b"]


async def test_the_bytes_are_bounded(shelf: Shelf) -> None:
    store = shelf.open(max_bytes=5000).responses
    for name in ("a", "b", "c"):
        assert await put(store, name, text="x" * 2000)
        shelf.clock.seconds += 1
    assert await present(store, "a", "b", "c") == ["b", "c"]
    assert not await put(store, "d", text="x" * 5000)
    assert await present(store, "d") == []


async def test_what_was_not_used_for_long_is_gone(shelf: Shelf) -> None:
    stores = shelf.open(keep_seconds=100)
    store = stores.responses
    await put(store, "a")
    await put(store, "b")
    shelf.clock.seconds += 90
    assert await chain(store, "a")
    shelf.clock.seconds += 90
    await put(store, "c")  # writes come in order: now the use is known
    assert await present(store, "a", "b") == ["a"]
    assert not await store.delete(TENANT, "b")
    await stores.close()
    with sqlite3.connect(shelf.path) as database:
        assert database.execute("SELECT id FROM responses ORDER BY id").fetchall() == [
            ("a",),
            ("c",),
        ]
    database.close()


async def test_a_conversation_of_too_many_bytes_is_refused(shelf: Shelf) -> None:
    store = shelf.open().responses
    await put(store, "a", text="x" * 1000)
    with pytest.raises(ServingError) as refused:
        await store.chain(TENANT, "a", 500)
    assert refused.value.kind is ErrorKind.CONTEXT_LENGTH

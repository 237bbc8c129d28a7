"""The store of conversations: durable, in order, bounded, one writer at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.errors import ErrorKind, ServingError
from serving.store.conversations import Conversation, ConversationStore
from serving.store.stores import Stores
from tests.serving.store.shelf import PLENTY, TENANT, Shelf, item


async def ids(store: ConversationStore, name: str) -> list[str] | None:
    items = await store.items(TENANT, name, PLENTY)
    return None if items is None else [item["id"] for item in items]


async def answer(
    stores: Stores, response: str, conversation: str, *, kept: bool = True, text: str = ""
) -> bool:
    body = {"id": response, "previous_response_id": None, "output": [item(f"out_{response}", text)]}
    return await stores.responses.save(
        TENANT, body, [item(f"in_{response}")], kept=kept, conversation=conversation
    )


async def test_items_are_kept_in_order_also_after_a_restart(shelf: Shelf) -> None:
    first = shelf.open()
    made = await first.conversations.create(TENANT, "c", {"topic": "rain"}, [item("a")])
    assert made == Conversation("c", 1000, {"topic": "rain"})
    assert await first.conversations.add(TENANT, "c", [item("b"), item("d")], PLENTY)
    assert await answer(first, "r", "c")
    await first.close()
    second = shelf.open().conversations
    assert await ids(second, "c") == ["a", "b", "d", "in_r", "out_r"]
    assert await second.load(TENANT, "c") == made
    assert await second.update(TENANT, "c", {}) == Conversation("c", 1000, {})
    assert await second.item(TENANT, "c", "b") == item("b")


async def test_an_answer_joins_its_conversation_whether_or_not_it_is_kept(shelf: Shelf) -> None:
    stores = shelf.open()
    await stores.conversations.create(TENANT, "c", {}, [])
    assert not await answer(stores, "r", "c", kept=False)
    assert await ids(stores.conversations, "c") == ["in_r", "out_r"]
    assert await stores.responses.load(TENANT, "r") is None
    assert await stores.responses.items(TENANT, ["out_r"]) == {"out_r": item("out_r")}
    assert await answer(stores, "s", "no such")
    assert await ids(stores.conversations, "no such") is None


async def test_pages_go_both_ways(shelf: Shelf) -> None:
    store = shelf.open().conversations
    await store.create(TENANT, "c", {}, [item(name) for name in "abcde"])

    async def page(**fields: Any) -> tuple[str, bool]:
        found = await store.page(TENANT, "c", **{"limit": 2, "after": None, **fields})
        assert found is not None
        return "".join(item["id"] for item in found.items), found.has_more

    assert await page(newest_first=False) == ("ab", True)
    assert await page(newest_first=False, after="c") == ("de", False)
    assert await page(newest_first=True) == ("ed", True)
    assert await page(newest_first=True, after="b") == ("a", False)
    assert await page(newest_first=True, after="a") == ("", False)
    with pytest.raises(ServingError) as wrong:
        await page(newest_first=True, after="x")
    assert wrong.value.param == "after"
    assert (await store.page(TENANT, "other", limit=2, newest_first=False, after=None)) is None


async def test_an_item_is_taken_out_and_comes_only_once(shelf: Shelf) -> None:
    store = shelf.open().conversations
    await store.create(TENANT, "c", {}, [item("a"), item("b")])
    assert await store.remove(TENANT, "c", "a") == Conversation("c", 1000, {})
    assert await store.remove(TENANT, "c", "a") is None
    assert await store.remove(TENANT, "other", "b") is None
    assert await store.add(TENANT, "c", [item("b"), item("d")], PLENTY)
    assert await ids(store, "c") == ["b", "d"]


async def test_tenants_do_not_see_each_other(shelf: Shelf) -> None:
    store = shelf.open().conversations
    await store.create(TENANT, "c", {}, [item("a")])
    assert await store.load("other", "c") is None
    assert await store.items("other", "c", PLENTY) is None
    assert await store.item("other", "c", "a") is None
    assert not await store.add("other", "c", [item("b")], PLENTY)
    assert not await store.delete("other", "c")
    assert await store.update("other", "c", {}) is None
    assert await ids(store, "c") == ["a"]


async def test_while_one_answers_no_other_writes(shelf: Shelf) -> None:
    store = shelf.open().conversations
    await store.create(TENANT, "c", {}, [item("a")])
    lock = store.lock(TENANT, "c")
    for attempt in (
        lambda: store.add(TENANT, "c", [item("b")], PLENTY),
        lambda: store.remove(TENANT, "c", "a"),
    ):
        with pytest.raises(ServingError) as locked:
            await attempt()
        assert locked.value.kind is ErrorKind.CONVERSATION_LOCKED
    with pytest.raises(ServingError):
        store.lock(TENANT, "c")
    store.lock(TENANT, "d").release()
    store.lock("other", "c").release()
    lock.release()
    lock.release()
    store.lock(TENANT, "c").release()
    assert await ids(store, "c") == ["a"]


async def test_services_that_share_a_file_lose_nothing_and_mix_no_turns(shelf: Shelf) -> None:
    first, second = shelf.open(), shelf.open()
    await first.conversations.create(TENANT, "c", {}, [])
    names = [f"{n}" for n in range(20)]
    await asyncio.gather(
        *(
            answer(stores, name, "c")
            for stores, name in zip([first, second] * 10, names, strict=True)
        )
    )
    found = await ids(second.conversations, "c")
    assert found is not None
    assert sorted(found[::2]) == sorted(f"in_{name}" for name in names)
    assert [name.replace("in", "out") for name in found[::2]] == found[1::2]


async def test_the_number_is_bounded_and_the_one_used_longest_ago_goes_first(
    shelf: Shelf,
) -> None:
    stores = shelf.open(max_conversations=2, max_responses=1)
    store = stores.conversations
    for name in "abc":
        await store.create(TENANT, name, {}, [item(f"i{name}")])
        shelf.clock.seconds += 1
        if name == "b":
            assert await ids(store, "a")
            shelf.clock.seconds += 1
    assert [await ids(store, name) for name in "abc"] == [["ia"], None, ["ic"]]
    await answer(stores, "r", "c")
    assert await ids(store, "c") == ["ic", "in_r", "out_r"]


async def test_bytes_are_bounded_for_conversations_and_responses_together(shelf: Shelf) -> None:
    stores = shelf.open(max_bytes=6000)
    await stores.conversations.create(TENANT, "a", {}, [item("i", "x" * 2000)])
    shelf.clock.seconds += 1
    await stores.conversations.create(TENANT, "b", {}, [])
    assert await answer(stores, "r", "b", text="x" * 2500)
    assert await ids(stores.conversations, "a") is None
    assert await ids(stores.conversations, "b") == ["in_r", "out_r"]
    assert await stores.responses.load(TENANT, "r")


async def test_one_conversation_is_bounded_when_it_is_written_and_read(shelf: Shelf) -> None:
    store = shelf.open().conversations
    await store.create(TENANT, "c", {}, [item("a", "x" * 1000)])
    with pytest.raises(ServingError) as refused:
        await store.add(TENANT, "c", [item("b", "x" * 1000)], 2000)
    assert refused.value.kind is ErrorKind.CONTEXT_LENGTH
    assert await ids(store, "c") == ["a"]
    with pytest.raises(ServingError):
        await store.items(TENANT, "c", 500)


async def test_what_was_not_used_for_long_is_gone(shelf: Shelf) -> None:
    stores = shelf.open(keep_seconds=100)
    store = stores.conversations
    await store.create(TENANT, "a", {}, [item("secret", "secret words")])
    await store.create(TENANT, "b", {}, [])
    shelf.clock.seconds += 90
    assert await store.update(TENANT, "b", {"still": "here"})
    shelf.clock.seconds += 90
    assert await store.load(TENANT, "a") is None
    assert await stores.responses.items(TENANT, ["secret"]) == {}
    assert await store.load(TENANT, "b")
    await store.create(TENANT, "c", {}, [])
    await stores.close()
    assert b"secret words" not in shelf.path.read_bytes()


async def test_what_is_deleted_is_gone(shelf: Shelf) -> None:
    stores = shelf.open()
    await stores.conversations.create(TENANT, "c", {}, [item("a", "secret words")])
    assert await stores.conversations.delete(TENANT, "c")
    assert not await stores.conversations.delete(TENANT, "c")
    assert await ids(stores.conversations, "c") is None
    await stores.close()
    assert b"secret words" not in shelf.path.read_bytes()

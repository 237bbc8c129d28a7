"""A conversation in the store is what a list would be, whatever is done to it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.settings import Store
from serving.store.access import Change
from serving.store.stores import Stores
from tests.serving.clock import Clock
from tests.serving.store.shelf import PLENTY, TENANT, item

Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "again", "remove", "answer", "page"]),
        st.integers(0, 9),
        st.integers(1, 4),
    ),
    max_size=25,
)


async def play(stores: Stores, steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Does the steps to a conversation and to a list, and returns the list."""
    store = stores.conversations
    await store.create(TENANT, "c", {}, [])
    expected: list[dict[str, Any]] = []
    for number, (kind, which, count) in enumerate(steps):
        new = [item(f"{number}.{n}", "x" * which) for n in range(count)]
        chosen = expected[which % len(expected)] if expected else None
        if kind == "add":
            assert await store.add(TENANT, "c", new, PLENTY)
            expected += new
        elif kind == "again" and chosen is not None:
            assert await store.add(TENANT, "c", [chosen], PLENTY)  # it is there already
        elif kind == "remove" and chosen is not None:
            assert await store.remove(TENANT, "c", chosen["id"])
            expected.remove(chosen)
        elif kind == "answer":
            body = {"id": f"r{number}", "previous_response_id": None, "output": new[1:]}
            assert await stores.responses.save(TENANT, body, new[:1], conversation="c")
            expected += new
        elif kind == "page":
            await compare_pages(stores, expected, chosen, count)
    return expected


async def compare_pages(
    stores: Stores, expected: list[dict[str, Any]], after: dict[str, Any] | None, limit: int
) -> None:
    for newest_first in (False, True):
        order = expected[::-1] if newest_first else expected
        start = 0 if after is None else order.index(after) + 1
        page = await stores.conversations.page(
            TENANT,
            "c",
            limit=limit,
            newest_first=newest_first,
            after=None if after is None else after["id"],
        )
        assert page == (order[start : start + limit], len(order) > start + limit)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(STEPS)
def test_it_is_a_list(steps: list[Step]) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "kept.sqlite3"
        changes: list[Change] = []

        async def run() -> None:
            stores = Stores(
                path,
                Store(),
                now=Clock(1000.0),
                on_change=changes.append,
                on_failure=lambda way, reason: None,
            )
            expected = await play(stores, steps)
            assert await stores.conversations.items(TENANT, "c", PLENTY) == expected
            await stores.close()
            database = sqlite3.connect(path)
            (size,) = database.execute("SELECT bytes FROM conversations").fetchone()
            database.close()
            assert size == sum(len(msgspec.json.encode(one)) for one in expected)

        asyncio.run(run())
        assert not changes

"""What is remembered, and that it is bounded."""

from __future__ import annotations

import sys

from serving.harmony.memo import MIN_CHARACTERS, Memo

COST = sys.getsizeof("a" * MIN_CHARACTERS)
"""Bytes of each text here, without its ids."""


def text(letter: str) -> str:
    return letter * MIN_CHARACTERS


def test_ids_come_back_in_a_new_list() -> None:
    memo = Memo(1000)
    memo.put(text("a"), [1, 2])
    found = memo.get(text("a"))
    assert found == [1, 2]
    assert found is not memo.get(text("a"))


def test_a_short_text_is_not_kept() -> None:
    memo = Memo(1000)
    memo.put("short", [1])
    assert memo.get("short") is None
    assert len(memo) == 0


def test_the_text_used_longest_ago_makes_room() -> None:
    memo = Memo(2 * COST + 16)
    memo.put(text("a"), [1, 1])
    memo.put(text("b"), [2, 2])
    assert memo.get(text("a")) is not None
    memo.put(text("c"), [3, 3])
    assert memo.get(text("b")) is None
    assert memo.get(text("a")) == [1, 1]
    assert memo.get(text("c")) == [3, 3]


def test_a_text_larger_than_the_memo_displaces_nothing() -> None:
    memo = Memo(COST + 8)
    memo.put(text("a"), [1, 1])
    memo.put(text("b"), [1, 2, 3])
    assert memo.get(text("b")) is None
    assert memo.get(text("a")) == [1, 1]


def test_a_text_is_counted_once() -> None:
    memo = Memo(2 * COST + 12)
    memo.put(text("a"), [1, 1])
    memo.put(text("a"), [1, 1])
    memo.put(text("b"), [2])
    assert len(memo) == 2


def test_no_room_keeps_nothing() -> None:
    memo = Memo(0)
    memo.put(text("a"), [1])
    assert len(memo) == 0

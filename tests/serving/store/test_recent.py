"""What a connection remembers of its responses: the latest, as far as they have room."""

from __future__ import annotations

from typing import Any

from serving.store.recent import Recent


def item(name: str, size: int = 0) -> dict[str, Any]:
    return {"id": name, "text": "x" * size}


def test_a_response_is_remembered_with_all_before_it() -> None:
    recent = Recent(1000)
    recent.remember("a", [], [item("1")])
    recent.remember("b", recent.chain("a") or [], [item("2"), item("3")])
    assert recent.chain("a") == [item("1")]
    assert recent.chain("b") == [item("1"), item("2"), item("3")]
    assert recent.chain("c") is None


def test_what_was_used_longest_ago_makes_room() -> None:
    recent = Recent(1000)
    for name in ("a", "b"):
        recent.remember(name, [], [item(name, 400)])
    assert recent.chain("a")
    recent.remember("c", [], [item("c", 400)])
    assert [recent.chain(name) is not None for name in "abc"] == [True, False, True]


def test_what_is_too_large_is_not_remembered_and_takes_no_room_for_ever() -> None:
    recent = Recent(1000)
    recent.remember("a", [], [item("a", 2000)])
    assert recent.chain("a") is None
    for name in ("b", "c"):
        recent.remember(name, [], [item(name, 400)])
    assert recent.chain("b")
    assert recent.chain("c")

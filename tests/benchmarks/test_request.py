"""The measuring of a request's own CPU time."""

from __future__ import annotations

import pytest

from benchmarks import request


async def test_every_part_of_a_request_takes_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "ROUNDS", 3)
    result = await request.measure()
    assert [row[0] for row in result.rows] == ["cold", "next turn"]
    assert all(3000 < int(row[1]) < 6000 for row in result.rows), "about 4k tokens"
    assert {name: len(values) for name, values in result.raw.items()} == {
        "cold_ms": 3,
        "next_turn_ms": 3,
        "presented_ms": 3,
    }
    assert all(value > 0 for values in result.raw.values() for value in values)

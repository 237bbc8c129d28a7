"""The measuring of first bytes, on the bare app."""

from __future__ import annotations

import asyncio

from benchmarks.first_byte import bare, request, take_turns
from benchmarks.http_load import load
from benchmarks.serving import check


def test_lines_take_turns_over_an_app_that_gives_what_it_is_asked_for() -> None:
    with bare() as port:
        at_once = asyncio.run(load(port, [request(port, 20)] * 3, held=True))
        in_turns = asyncio.run(take_turns(port, streams=4, turns=3, tokens=12))
    check(at_once, 20)
    assert [result.events for result in at_once] == [7, 7, 7]
    assert all(result.sent < result.first < result.last for result in at_once)
    check(in_turns, 12)
    assert len(in_turns) == 4 * 2, "the first stream of each line is not counted"

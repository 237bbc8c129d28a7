"""The measuring of first bytes, on the bare app."""

from __future__ import annotations

from benchmarks.bare_app import make_app
from benchmarks.first_byte import request, take_turns
from benchmarks.http_load import load
from benchmarks.serving import check
from tests.serving.api.server import listening


async def test_the_bare_app_gives_the_chunks_that_a_request_asks_for() -> None:
    async with listening(make_app()) as port:
        results = await load(port, [request(port, 5)] * 3)
    check(results, 5)
    assert [result.events for result in results] == [7, 7, 7]
    assert all(result.sent < result.first < result.last for result in results)


async def test_each_line_takes_its_turns_and_the_first_is_not_counted() -> None:
    async with listening(make_app()) as port:
        results = await take_turns(port, streams=4, turns=3, tokens=3)
    check(results, 3)
    assert len(results) == 4 * 2

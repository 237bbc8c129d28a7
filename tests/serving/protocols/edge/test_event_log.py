"""A log is read by many, from any place, while it is written and after."""

from __future__ import annotations

import asyncio

from serving.protocols.edge.event_log import EventLog, LogReader, split_events


def event(number: int) -> bytes:
    return b"event: e\ndata: %d\n\n" % number


async def read(log: EventLog, start: int) -> bytes:
    reader = LogReader(log, start)
    heard = reader.begin()
    async for tick in log.ticks():
        heard += reader.encode(tick)
    return heard + reader.end()


def test_events_are_told_apart() -> None:
    assert split_events(event(0) + event(1)) == [event(0), event(1)]
    assert split_events(b"") == []


async def test_readers_hear_all_from_their_place_on() -> None:
    log = EventLog()
    log.add(event(0) + event(1))
    readers = [asyncio.create_task(read(log, start)) for start in (0, 1, 3, 9)]
    for number in (2, 3, 4):
        await asyncio.sleep(0)
        log.add(event(number))
    log.end()
    heard = await asyncio.gather(*readers, read(log, 2))
    for start, text in zip((0, 1, 3, 9, 2), heard, strict=True):
        assert text == b"".join(event(number) for number in range(start, 5))


async def test_a_log_that_ends_without_a_word_ends_its_readers() -> None:
    log = EventLog()
    reader = asyncio.create_task(read(log, 0))
    await asyncio.sleep(0)
    log.end()
    log.end()
    assert await reader == b""

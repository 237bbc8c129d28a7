"""A tape is read by many, from any place, while it is written and after."""

from __future__ import annotations

import asyncio

from serving.protocols.responses.tape import Playback, Tape, split_events


def event(number: int) -> bytes:
    return b"event: e\ndata: %d\n\n" % number


async def read(tape: Tape, start: int) -> bytes:
    playback = Playback(tape, start)
    heard = playback.begin()
    async for tick in tape.ticks():
        heard += playback.encode(tick)
    return heard + playback.end()


def test_events_are_told_apart() -> None:
    assert split_events(event(0) + event(1)) == [event(0), event(1)]
    assert split_events(b"") == []


async def test_readers_hear_all_from_their_place_on() -> None:
    tape = Tape()
    tape.add(event(0) + event(1))
    readers = [asyncio.create_task(read(tape, start)) for start in (0, 1, 3, 9)]
    for number in (2, 3, 4):
        await asyncio.sleep(0)
        tape.add(event(number))
    tape.end()
    heard = await asyncio.gather(*readers, read(tape, 2))
    for start, text in zip((0, 1, 3, 9, 2), heard, strict=True):
        assert text == b"".join(event(number) for number in range(start, 5))


async def test_a_tape_that_ends_without_a_word_ends_its_readers() -> None:
    tape = Tape()
    reader = asyncio.create_task(read(tape, 0))
    await asyncio.sleep(0)
    tape.end()
    tape.end()
    assert await reader == b""

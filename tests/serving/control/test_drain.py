"""Leaving, step by step: what each phase lets in, and how what runs is ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from serving.control.drain import END_SECONDS, Drain, Phase
from serving.errors import ErrorKind, ServingError
from serving.settings import Draining

LIMITS = Draining(notice_seconds=5, running_seconds=60)


class Timers:
    """A clock that stands still until it is told to strike."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._next: Callable[[], None] = lambda: None

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        self.seconds.append(seconds)
        self._next = callback
        loop = asyncio.get_running_loop()
        return asyncio.TimerHandle(loop.time(), callback, (), loop)

    def strike(self) -> None:
        self._next()


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    """The timers of this test's event loop."""
    made = Timers()
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", made.call_later)
    return made


async def test_the_phases_come_in_order_each_after_its_time(timers: Timers) -> None:
    heard: list[Phase] = []
    drain = Drain(LIMITS, heard.append)
    with drain.work():
        drain.begin()
        assert (drain.draining, drain.refusing.is_set(), drain.done) == (True, False, False)
        drain.require_open()
        timers.strike()
        with pytest.raises(ServingError) as refused:
            drain.require_open()
        assert refused.value.kind is ErrorKind.DRAINING
        timers.strike()
        timers.strike()
        assert drain.done
    assert heard == [Phase.NOTICE, Phase.REFUSING, Phase.ENDING, Phase.OVER]
    assert timers.seconds == [5, 60, END_SECONDS]


async def test_it_is_done_as_soon_as_nothing_runs_but_not_before_the_notice(timers: Timers) -> None:
    drain = Drain(LIMITS)
    drain.begin()
    assert not drain.done
    with drain.work():
        timers.strike()
        assert not drain.done
    assert drain.done


async def test_a_second_beginning_only_shortens_the_notice(timers: Timers) -> None:
    drain = Drain(LIMITS)
    drain.begin()
    drain.begin()
    assert (drain.draining, drain.refusing.is_set()) == (True, False)
    drain.begin(0)
    assert drain.refusing.is_set()
    drain.begin(0)
    drain.begin()
    assert timers.seconds == [5, 60]


async def test_a_bounded_block_is_ended_with_an_error_of_the_drain(timers: Timers) -> None:
    drain = Drain(LIMITS)

    async def work() -> None:
        async with drain.bounded():
            await asyncio.Event().wait()

    running = asyncio.create_task(work())
    await asyncio.sleep(0)
    drain.begin(0)
    timers.strike()
    with pytest.raises(ServingError) as ended:
        await running
    assert ended.value.kind is ErrorKind.DRAINING
    assert drain.running == 0
    with pytest.raises(ServingError):  # one that begins after the end, such as a later round
        await work()


async def test_a_block_that_something_else_bounds_is_left_alone(timers: Timers) -> None:
    drain = Drain(LIMITS)
    go_on = asyncio.Event()

    async def work() -> str:
        async with drain.bounded(lambda: False):
            await go_on.wait()
        return "whole"

    running = asyncio.create_task(work())
    await asyncio.sleep(0)
    drain.begin(0)
    timers.strike()
    go_on.set()
    assert await running == "whole"


async def test_other_ends_of_a_bounded_block_are_not_the_drain_s() -> None:
    drain = Drain(LIMITS)

    async def work() -> None:
        async with drain.bounded():
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with drain.bounded():
            raise TimeoutError
    running = asyncio.create_task(work())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert drain.running == 0

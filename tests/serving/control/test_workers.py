"""Threads of one kind of work: bounded, in order, and nothing done for who has left."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serving.control.workers import THREADS, Workers
from serving.errors import ErrorKind, ServingError
from tests.serving.protocols.edge.server import until


class Work:
    """Pieces of work that end when they may, and which of them have begun."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.may_end = threading.Event()

    def do(self, number: int) -> int:
        """Returns the number once the work may end."""
        self.begun.append(number)
        assert self.may_end.wait(10)
        return number


def workers(max_waiting: int = 8) -> Workers:
    return Workers("test", max_waiting=max_waiting, inline_bytes=100)


async def test_a_bounded_number_waits_and_each_has_its_turn() -> None:
    pool, work = workers(max_waiting=2), Work()
    asked = [asyncio.create_task(pool.run(work.do, n)) for n in range(THREADS + 2)]
    await asyncio.sleep(0)
    with pytest.raises(ServingError) as full:
        await pool.run(work.do, 99)
    assert full.value.kind is ErrorKind.OVERLOADED
    assert full.value.retry_after_seconds
    work.may_end.set()
    assert await asyncio.gather(*asked) == list(range(THREADS + 2))
    assert 99 not in work.begun


async def test_work_whose_caller_left_before_it_began_is_not_done() -> None:
    pool, work = workers(max_waiting=1), Work()
    running = [asyncio.create_task(pool.run(work.do, n)) for n in range(THREADS)]
    waiting = asyncio.create_task(pool.run(work.do, 50))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    last = asyncio.create_task(pool.run(work.do, 51))
    await asyncio.sleep(0)
    work.may_end.set()
    assert await last == 51
    await asyncio.gather(*running)
    assert 50 not in work.begun


async def test_work_that_has_begun_holds_its_thread_though_its_caller_left() -> None:
    pool, work = workers(max_waiting=1), Work()
    running = [asyncio.create_task(pool.run(work.do, n)) for n in range(THREADS)]
    await until(lambda: len(work.begun) == THREADS)
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    waiting = asyncio.create_task(pool.run(work.do, 5))
    await asyncio.sleep(0)
    with pytest.raises(ServingError):
        await pool.run(work.do, 99)
    work.may_end.set()
    assert await waiting == 5


async def test_small_work_is_done_at_once_and_large_work_in_a_thread() -> None:
    pool = workers()
    assert await pool.run_sized(100, threading.get_ident) == threading.get_ident()
    assert await pool.run_sized(101, threading.get_ident) != threading.get_ident()


async def test_what_work_raises_comes_to_its_caller() -> None:
    pool = workers()
    for _ in range(THREADS + 1):
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)

"""Grammars checked in a process that can be killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.errors import ErrorKind, ServingError
from serving.grammar.check import SLOW_SECONDS, GrammarCheck
from serving.harmony.vocabulary import Vocabulary
from tests.serving.clock import Clock
from tests.serving.protocols.edge.server import until

GOOD = {"type": "object", "properties": {"a": {"type": "string"}}}
ENDLESS = {"type": "string", "maxLength": 100_000_000}
"""Takes minutes: the reader of schemas refuses it, the process is there for what that overlooks."""


def of_schema(schema: Any) -> str:
    form = {"type": "json_schema", "json_schema": schema}
    return json.dumps({"type": "structural_tag", "format": form})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def losses() -> list[str]:
    """Why processes were lost."""
    return []


Make = Callable[..., GrammarCheck]


@pytest.fixture
async def make(ranks: Path, clock: Clock, losses: list[str]) -> AsyncGenerator[Make]:
    """Returns a function that makes a check; its process is ended after the test."""
    made: list[GrammarCheck] = []

    def begin(budget_seconds: float = 10.0, max_waiting: int = 8) -> GrammarCheck:
        made.append(
            GrammarCheck(
                ranks,
                Vocabulary.size,
                budget_seconds,
                max_waiting=max_waiting,
                clock=clock,
                on_loss=losses.append,
            )
        )
        return made[-1]

    yield begin
    for check in made:
        await check.close()
    assert workers() == []


@pytest.fixture
def check(make: Make) -> GrammarCheck:
    return make()


def workers() -> list[psutil.Process]:
    """Returns the grammar processes of this process that live."""
    return [child for child in psutil.Process().children() if "grammar.process" in command(child)]


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.ZombieProcess, psutil.NoSuchProcess):
        return ""


async def refusal(check: GrammarCheck, schema: Any) -> ServingError:
    with pytest.raises(ServingError) as refused:
        await check.require(of_schema(schema), "response_format")
    return refused.value


async def stopped(check: GrammarCheck) -> psutil.Process:
    """Returns the process of `check`, which takes nothing until it is resumed."""
    await check.require(of_schema(GOOD), None)
    (worker,) = workers()
    worker.suspend()
    return worker


def asked(check: GrammarCheck, schema: Any) -> asyncio.Task[None]:
    return asyncio.create_task(check.require(of_schema(schema), None))


async def test_a_verdict_is_remembered(check: GrammarCheck) -> None:
    await check.require(of_schema(GOOD), None)
    bad = await refusal(check, {"type": "string", "pattern": "("})
    assert (bad.kind, bad.param) == (ErrorKind.INVALID_VALUE, "response_format")
    assert "parenthesis" in bad.message
    (worker,) = workers()
    worker.kill()
    await until(lambda: workers() == [])
    await check.require(of_schema(GOOD), None)
    assert "parenthesis" in (await refusal(check, {"type": "string", "pattern": "("})).message
    assert workers() == []


async def test_the_process_is_started_again_when_it_has_died(
    check: GrammarCheck, losses: list[str]
) -> None:
    await check.require(of_schema(GOOD), None)
    (worker,) = workers()
    os.kill(worker.pid, signal.SIGKILL)
    await check.require(of_schema({"type": "integer"}), None)
    (other,) = workers()
    assert other.pid != worker.pid
    assert losses == ["it ended over a schema; exit code -9"]


async def test_a_compilation_without_end_is_ended_and_the_loop_does_not_wait(
    make: Make, losses: list[str]
) -> None:
    slow = asyncio.create_task(refusal(make(budget_seconds=0.3), ENDLESS))
    turns = 0
    while not slow.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await slow).kind is ErrorKind.INVALID_VALUE
    assert "more than 0.3 seconds" in (await slow).message
    assert turns > 100
    assert workers() == []
    assert losses == ["killed: a schema took more than 0.3 seconds; exit code -9"]


async def test_what_was_too_slow_is_not_tried_again_for_a_while(make: Make, clock: Clock) -> None:
    check = make(budget_seconds=0.3)
    await refusal(check, ENDLESS)
    again = await refusal(check, ENDLESS)
    assert "more than 0.3 seconds" in again.message
    assert workers() == []  # or it would have been started for it
    clock.seconds += SLOW_SECONDS
    slow = asyncio.create_task(refusal(check, ENDLESS))
    await until(lambda: bool(workers()))
    await slow


async def test_a_bounded_number_waits_and_one_that_leaves_makes_room(make: Make) -> None:
    check = make(max_waiting=2)
    worker = await stopped(check)
    waiting = [asked(check, {"const": number}) for number in range(3)]
    await asyncio.sleep(0)
    full = await refusal(check, {"const": 3})
    assert full.kind is ErrorKind.OVERLOADED
    assert full.retry_after_seconds
    waiting[1].cancel()
    await asyncio.wait({waiting[1]})
    last = asked(check, {"const": 4})
    worker.resume()
    await asyncio.gather(waiting[0], waiting[2], last)
    worker.suspend()
    # The others have their verdicts; the one that was given up was never asked about.
    await asyncio.gather(*(asked(check, {"const": number}) for number in (0, 2, 4)))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asked(check, {"const": 1}), 0.05)
    worker.resume()


async def test_equal_grammars_are_judged_once_for_all_who_wait(make: Make) -> None:
    check = make(max_waiting=0)
    worker = await stopped(check)
    waiting = [asked(check, {"const": 1}) for _ in range(20)]
    await asyncio.sleep(0)
    assert (await refusal(check, {"const": 2})).kind is ErrorKind.OVERLOADED
    waiting[0].cancel()
    await asyncio.wait({waiting[0]})
    worker.resume()
    await asyncio.gather(*waiting[1:])


async def test_what_has_begun_is_brought_to_its_end_though_its_client_left(make: Make) -> None:
    check = make()
    worker = await stopped(check)
    left = asked(check, {"const": 1})
    await asyncio.sleep(0.05)
    left.cancel()
    await asyncio.wait({left})
    behind = asked(check, {"const": 2})
    worker.resume()
    await behind
    assert workers() == [worker]
    worker.suspend()
    await check.require(of_schema({"const": 1}), None)
    worker.resume()


async def test_no_thread_of_the_pool_that_all_share_is_needed(check: GrammarCheck) -> None:
    busy, over = ThreadPoolExecutor(1), threading.Event()
    asyncio.get_running_loop().set_default_executor(busy)
    busy.submit(over.wait)
    try:
        await check.require(of_schema(GOOD), None)
    finally:
        over.set()


async def test_a_signal_to_the_group_does_not_end_it(check: GrammarCheck) -> None:
    await check.require(of_schema(GOOD), None)
    (worker,) = workers()
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGINT)
    await check.require(of_schema({"type": "integer"}), None)
    assert [w.pid for w in workers()] == [worker.pid]


async def test_it_takes_no_torch_along(check: GrammarCheck) -> None:
    await check.require(of_schema(GOOD), None)
    (worker,) = workers()
    assert not any("torch" in mapping.path for mapping in worker.memory_maps())
    assert worker.memory_info().rss < 400_000_000


async def test_after_close_there_is_no_process_and_nobody_waits(
    check: GrammarCheck, losses: list[str]
) -> None:
    worker = await stopped(check)
    waiting = [asyncio.create_task(refusal(check, {"const": number})) for number in range(3)]
    await asyncio.sleep(0.05)
    await check.close()
    assert not worker.is_running()
    for refused in [*await asyncio.gather(*waiting), await refusal(check, {"const": 4})]:
        assert refused.kind is ErrorKind.DRAINING
    assert losses == []

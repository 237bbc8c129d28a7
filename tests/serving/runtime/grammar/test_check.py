"""Grammars checked in a process that can be killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.errors import ErrorKind, ServingError
from serving.harmony.vocabulary import Vocabulary
from serving.runtime.grammar.check import GrammarCheck

GOOD = {"type": "object", "properties": {"a": {"type": "string"}}}
ENDLESS = {"type": "string", "maxLength": 100_000_000}
"""Takes minutes: the reader of schemas refuses it, the process is there for what that overlooks."""


def of_schema(schema: Any) -> str:
    form = {"type": "json_schema", "json_schema": schema}
    return json.dumps({"type": "structural_tag", "format": form})


@pytest.fixture
def losses() -> list[str]:
    """Why processes were lost."""
    return []


@pytest.fixture
def check(ranks: Path, losses: list[str]) -> Iterator[GrammarCheck]:
    made = GrammarCheck(ranks, Vocabulary.size, 10.0, losses.append)
    yield made
    made.close()


def workers() -> list[psutil.Process]:
    """Returns the grammar processes of this process."""
    return [
        child
        for child in psutil.Process().children()
        if "serving.runtime.grammar.process" in child.cmdline()
    ]


async def refusal(check: GrammarCheck, schema: Any) -> ServingError:
    with pytest.raises(ServingError) as refused:
        await check.require(of_schema(schema), "response_format")
    assert refused.value.kind is ErrorKind.INVALID_VALUE
    assert refused.value.param == "response_format"
    return refused.value


async def test_a_verdict_is_remembered(check: GrammarCheck) -> None:
    await check.require(of_schema(GOOD), None)
    assert "parenthesis" in (await refusal(check, {"type": "string", "pattern": "("})).message
    (worker,) = workers()
    worker.kill()
    await asyncio.to_thread(worker.wait)
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
    ranks: Path, losses: list[str]
) -> None:
    check = GrammarCheck(ranks, Vocabulary.size, 0.3, losses.append)
    try:
        slow = asyncio.create_task(refusal(check, ENDLESS))
        turns = 0
        while not slow.done():
            await asyncio.sleep(0)
            turns += 1
        assert "more than 0.3 seconds" in (await slow).message
        assert turns > 100
        assert workers() == []
        assert losses == ["killed: a schema took more than 0.3 seconds; exit code -9"]
    finally:
        check.close()


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


async def test_after_close_there_is_no_process(check: GrammarCheck) -> None:
    await check.require(of_schema(GOOD), None)
    (worker,) = workers()
    check.close()
    await asyncio.to_thread(worker.wait, 10)
    assert not worker.is_running()

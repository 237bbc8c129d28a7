"""Deadlines: to the first token, between tokens, in total."""

from __future__ import annotations

import asyncio
import time

import pytest

from serving.errors import ErrorKind, ServingError
from serving.events import (
    Content,
)
from serving.harmony.vocabulary import RETURN
from serving.settings import Deadlines
from tests.serving.scene import Stage, finished, job, texts


@pytest.mark.parametrize(
    "deadlines",
    [
        Deadlines(first_token_seconds=0.03),
        Deadlines(total_seconds=0.03),
        Deadlines(first_token_seconds=0.03, total_seconds=0.03),
    ],
)
async def test_no_first_token_in_time_is_a_deadline_and_aborts(
    stage: Stage, deadlines: Deadlines
) -> None:
    scene = stage(deadlines)
    running = scene.start(job())
    stream = await scene.engine.next_stream()
    with pytest.raises(ServingError) as late:
        await running
    assert late.value.kind is ErrorKind.DEADLINE
    assert stream.closed.is_set()
    assert scene.records[0].code == "deadline_exceeded"


async def test_a_stall_after_tokens_is_a_deadline(stage: Stage) -> None:
    scene = stage(Deadlines(stall_seconds=0.03))
    running = scene.start(job())
    stream = await scene.engine.next_stream()
    stream.give([*scene.header(), *scene.vocabulary.encode("a")])
    with pytest.raises(ServingError) as late:
        await running
    assert late.value.kind is ErrorKind.DEADLINE


@pytest.mark.parametrize("begun", [True, False])
async def test_a_sequence_that_the_engine_has_set_aside_is_no_stall(
    stage: Stage, *, begun: bool
) -> None:
    scene = stage(Deadlines(stall_seconds=0.1, first_token_seconds=0.1))
    running = scene.start(job())
    stream = await scene.engine.next_stream()
    if begun:
        stream.give([*scene.header(), *scene.vocabulary.encode("a")])
    stream.suspended = True
    await asyncio.sleep(0.5)
    assert not running.done()
    stream.suspended = False
    answer = [] if begun else [*scene.header(), *scene.vocabulary.encode("a")]
    stream.give([*answer, *scene.vocabulary.encode("b"), RETURN], finish="stop")
    assert texts(await running, Content) == "ab"


async def test_a_sequence_that_stays_silent_after_it_was_set_aside_is_a_stall(
    stage: Stage,
) -> None:
    scene = stage(Deadlines(stall_seconds=0.05))
    running = scene.start(job())
    stream = await scene.engine.next_stream()
    stream.give([*scene.header(), *scene.vocabulary.encode("a")])
    stream.suspended = True
    await asyncio.sleep(0.2)
    stream.suspended = False
    with pytest.raises(ServingError) as late:
        await running
    assert late.value.kind is ErrorKind.DEADLINE


async def test_a_sequence_that_is_set_aside_has_its_total_time_alone(stage: Stage) -> None:
    scene = stage(Deadlines(stall_seconds=0.05, total_seconds=0.3))
    running = scene.start(job())
    stream = await scene.engine.next_stream()
    stream.suspended = True
    with pytest.raises(ServingError, match="in total"):
        await running
    assert stream.closed.is_set()


async def test_tokens_that_keep_coming_are_no_stall(stage: Stage) -> None:
    scene = stage(Deadlines(stall_seconds=0.1))
    running = scene.start(job())
    stream = await scene.engine.next_stream()
    stream.give(scene.header())
    for _ in range(10):
        await asyncio.sleep(0.03)
        stream.give(scene.vocabulary.encode("a"))
    stream.give([RETURN], finish="stop")
    assert texts(await running, Content) == "a" * 10


async def test_a_reader_that_is_slow_is_no_stall_of_the_engine(stage: Stage) -> None:
    scene = stage(Deadlines(stall_seconds=0.03))
    events = scene.pipeline.run(job())
    first = asyncio.ensure_future(anext(events))
    stream = await scene.engine.next_stream()
    stream.give([*scene.header(), *scene.vocabulary.encode("a")])
    await first
    await asyncio.sleep(0.1)
    stream.give([RETURN], finish="stop")
    assert finished(await anext(events)).reason == "stop"
    await events.aclose()


async def test_the_job_s_own_deadline_can_only_lower_the_limit(stage: Stage) -> None:
    scene = stage(Deadlines(total_seconds=60))
    with pytest.raises(ServingError) as late:
        await scene.start(job(deadline_seconds=0.03))
    assert late.value.kind is ErrorKind.DEADLINE
    scene = stage(Deadlines(total_seconds=0.03))
    with pytest.raises(ServingError):
        await scene.start(job(deadline_seconds=60))


async def test_a_cancellation_at_the_moment_of_a_deadline_stays_one(stage: Stage) -> None:
    scene = stage(Deadlines(first_token_seconds=0.02))
    running = scene.start(job())
    await scene.engine.next_stream()
    # Both timers fire in one turn of the loop: the deadline's cancel and ours meet in the task.
    asyncio.get_running_loop().call_later(0.02, running.cancel)
    time.sleep(0.03)  # noqa: ASYNC251 - holds the loop until both are due
    with pytest.raises((asyncio.CancelledError, ServingError)):
        await running
    assert len(scene.records) == 1
    assert scene.admission.running == 0

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from serving.boundary.lifecycle import Cause, EngineState, Policy
from serving.engines.replay import script as scripts
from serving.errors import ErrorKind, ServingError
from tests.serving.boundary.supervised import (
    DETECTION_SECONDS,
    KILL,
    LONG,
    WATCHFUL,
    Supervise,
    either,
    loss_of,
    pid_of,
    reached,
)


async def test_a_killed_engine_is_told_at_once_and_replaced(supervise: Supervise) -> None:
    supervisor = await supervise(either())
    running = supervisor.open([1], [LONG])
    await running.receive()
    first = pid_of(supervisor)
    os.kill(first, signal.SIGKILL)
    error = await loss_of(running, DETECTION_SECONDS)
    assert error.kind is ErrorKind.ENGINE_UNAVAILABLE
    assert supervisor.state is not EngineState.READY
    assert supervisor.ready is None
    with pytest.raises(ServingError) as raised:
        supervisor.open([1], [LONG])
    assert raised.value.kind is ErrorKind.ENGINE_UNAVAILABLE
    assert (raised.value.retry_after_seconds or 0) >= 1
    await reached(supervisor, EngineState.READY)
    assert pid_of(supervisor) != first
    assert supervisor.restarts == 1
    assert supervisor.alive
    again = supervisor.open([1], [LONG])
    assert await again.receive()
    again.close()
    lost, waited = supervisor.history[2:4]
    assert (lost.state, lost.cause) == (EngineState.LOST, Cause.DISCONNECTED)
    assert (waited.state, waited.cause, waited.exit_code) == (
        EngineState.BACKOFF,
        Cause.KILLED,
        -signal.SIGKILL,
    )


async def test_a_hung_engine_is_killed_and_replaced(supervise: Supervise) -> None:
    supervisor = await supervise(either(), WATCHFUL)
    running = supervisor.open([1], [LONG])
    await running.receive()
    os.kill(pid_of(supervisor), signal.SIGSTOP)
    await loss_of(running)
    await reached(supervisor, EngineState.BACKOFF)
    await reached(supervisor, EngineState.READY)
    assert [one.cause for one in supervisor.history if one.state is EngineState.LOST] == [
        Cause.HUNG
    ]
    assert supervisor.restarts == 1


async def test_an_idle_engine_that_hangs_is_found_too(supervise: Supervise) -> None:
    supervisor = await supervise(either(), WATCHFUL)
    os.kill(pid_of(supervisor), signal.SIGSTOP)
    await reached(supervisor, EngineState.LOST)
    assert supervisor.history[-1].cause is Cause.HUNG


async def test_a_loop_that_blocks_is_a_hang(supervise: Supervise) -> None:
    supervisor = await supervise(either(scripts.Hang()), WATCHFUL)
    await loss_of(supervisor.open([KILL], [LONG]))
    assert supervisor.history[-1].cause is Cause.HUNG


async def test_a_short_pause_is_no_hang(supervise: Supervise) -> None:
    patient = Policy(ping_seconds=0.02, stall_seconds=10.0)
    supervisor = await supervise(either(), patient)
    running = supervisor.open([1], [LONG])
    await running.receive()
    pid = pid_of(supervisor)
    os.kill(pid, signal.SIGSTOP)
    asked = asyncio.create_task(supervisor.stats())
    done, _ = await asyncio.wait({asked}, timeout=0.5)
    os.kill(pid, signal.SIGCONT)
    assert not done
    await asked
    assert await running.receive()
    running.close()
    assert (supervisor.restarts, pid_of(supervisor)) == (0, pid)


async def test_an_engine_without_progress_is_replaced(supervise: Supervise) -> None:
    supervisor = await supervise(either(scripts.Freeze()), WATCHFUL)
    await loss_of(supervisor.open([KILL], [LONG]))
    assert supervisor.history[-1].cause is Cause.NO_PROGRESS


async def test_a_stalled_sequence_is_not_the_engines_end(supervise: Supervise) -> None:
    supervisor = await supervise(either(scripts.Stall()), WATCHFUL)
    stalled = supervisor.open([KILL], [LONG])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await stalled.receive()
    assert supervisor.state is EngineState.READY
    stalled.close()
    assert (await supervisor.stats()).running == 0


async def test_a_pause_of_the_whole_machine_is_not_held_against_the_engine(
    supervise: Supervise,
) -> None:
    supervisor = await supervise(either(), WATCHFUL)
    pid = pid_of(supervisor)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(0.2)  # A ping is on its way when the machine stops.
    time.sleep(1.5)  # noqa: ASYNC251 -- the event loop is blocked on purpose
    asyncio.get_running_loop().call_later(0.2, os.kill, pid, signal.SIGCONT)
    await asyncio.sleep(0.4)
    assert (await supervisor.stats()).running == 0
    assert (supervisor.state, supervisor.restarts) == (EngineState.READY, 0)


@pytest.mark.parametrize(
    ("step", "cause", "exit_code"),
    [
        (scripts.Die(), Cause.KILLED, -9),
        (scripts.Die(signal=11), Cause.KILLED, -11),
        (scripts.Die(exit_code=3), Cause.EXITED, 3),
        (scripts.Die(exit_code=0), Cause.EXITED, 0),
        (scripts.Fail(), Cause.FATAL, 70),
        (scripts.Fail(exit_code=71), Cause.OUT_OF_MEMORY, 71),
        (scripts.Fail(exit_code=72), Cause.WORKER_LOST, 72),
        (scripts.Fail(exit_code=75), Cause.HUNG, 75),
        (scripts.Die(exit_code=76), Cause.COMMUNICATION, 76),
        (scripts.Fail(exit_code=99), Cause.FATAL, 99),
    ],
)
async def test_each_way_to_die_has_its_cause(
    supervise: Supervise, step: scripts.ScriptStep, cause: Cause, exit_code: int
) -> None:
    supervisor = await supervise(either(step))
    await loss_of(supervisor.open([KILL], [LONG]))
    await reached(supervisor, EngineState.BACKOFF)
    last = supervisor.history[-1]
    assert (last.cause, last.exit_code) == (cause, exit_code)

from __future__ import annotations

import asyncio
import dataclasses
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import uvloop

from serving.engine import Limits
from serving.errors import ErrorKind, ServingError
from serving.job import Sampling
from serving.runtime import script as scripts
from serving.runtime.client import Stream
from serving.runtime.lifecycle import Cause, EngineState, Policy, Transition
from serving.runtime.messages import Output
from serving.runtime.script import Scenario, Script
from serving.runtime.supervisor import Supervisor

Supervise = Callable[..., Awaitable[Supervisor]]

LONG = Sampling(max_tokens=1_000_000)
FOR_EVER = (scripts.Repeat(ids=(5, 6)),)
KILL = 77
"""A prompt with this token makes the engine play its fault."""

DETECTION_SECONDS = 2.0
WAIT_SECONDS = 20.0


def either(*steps: scripts.ScriptStep, **fields: object) -> Script:
    """Returns a script that plays `steps` for a prompt with KILL, and endless tokens else."""
    return Script(
        scenarios=(Scenario(match=(KILL,), steps=steps), Scenario(steps=FOR_EVER)),
        pace_seconds=0.002,
        **fields,  # type: ignore[arg-type]
    )


async def read_all(stream: Stream) -> list[tuple[int, Output]]:
    """Returns every output of a stream."""
    outputs: list[tuple[int, Output]] = []
    while arrived := await stream.receive():
        outputs += arrived
    return outputs


async def loss_of(stream: Stream) -> ServingError:
    """Reads a stream until it is told of the loss, within the time that is promised."""
    with pytest.raises(ServingError) as raised:
        async with asyncio.timeout(DETECTION_SECONDS):
            await read_all(stream)
    return raised.value


async def reached(supervisor: Supervisor, *states: EngineState) -> EngineState:
    async with asyncio.timeout(WAIT_SECONDS):
        return await supervisor.reached(*states)


def pid_of(supervisor: Supervisor) -> int:
    pid = supervisor.pid
    assert pid is not None
    return pid


def path_of(supervisor: Supervisor) -> list[tuple[EngineState, Cause]]:
    return [(one.state, one.cause) for one in supervisor.history]


async def test_it_serves_once_the_engine_is_loaded(supervise: Supervise) -> None:
    supervisor = await supervise(steps=(scripts.Tokens(ids=(5, 6)),), settled=False)
    assert supervisor.state is EngineState.STARTING
    before = supervisor.ready
    assert before is None
    assert await reached(supervisor, EngineState.READY) is EngineState.READY
    assert supervisor.ready is not None
    outputs = await read_all(supervisor.open([1], [LONG, LONG]))
    for choice in (0, 1):
        assert [t for index, one in outputs if index == choice for t in one.tokens] == [5, 6]
    assert (await supervisor.stats()).generated_tokens_total == 4
    assert supervisor.restarts == 0
    assert path_of(supervisor) == [
        (EngineState.STARTING, Cause.REQUESTED),
        (EngineState.READY, Cause.LOADED),
    ]


async def test_a_killed_engine_is_told_at_once_and_replaced(supervise: Supervise) -> None:
    supervisor = await supervise(either())
    running = supervisor.open([1], [LONG])
    await running.receive()
    first = pid_of(supervisor)
    os.kill(first, signal.SIGKILL)
    error = await loss_of(running)
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
    supervisor = await supervise(either())
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
    supervisor = await supervise(either())
    os.kill(pid_of(supervisor), signal.SIGSTOP)
    await reached(supervisor, EngineState.LOST)
    assert supervisor.history[-1].cause is Cause.HUNG


async def test_a_loop_that_blocks_is_a_hang(supervise: Supervise) -> None:
    supervisor = await supervise(either(scripts.Hang()))
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
    supervisor = await supervise(either(scripts.Freeze()))
    await loss_of(supervisor.open([KILL], [LONG]))
    assert supervisor.history[-1].cause is Cause.NO_PROGRESS


async def test_a_stalled_sequence_is_not_the_engines_end(supervise: Supervise) -> None:
    policy = Policy(ping_seconds=0.02, stall_seconds=0.3, progress_seconds=0.3)
    supervisor = await supervise(either(scripts.Stall()), policy)
    stalled = supervisor.open([KILL], [LONG])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.8):
            await stalled.receive()
    assert supervisor.state is EngineState.READY
    stalled.close()
    assert (await supervisor.stats()).running == 0


async def test_a_pause_of_this_process_is_not_held_against_the_engine(
    supervise: Supervise,
) -> None:
    supervisor = await supervise(either())
    time.sleep(1.0)  # noqa: ASYNC251 -- the event loop is blocked on purpose
    await asyncio.sleep(0.2)
    assert supervisor.state is EngineState.READY
    assert supervisor.restarts == 0


@pytest.mark.parametrize(
    ("step", "cause", "exit_code"),
    [
        (scripts.Die(), Cause.KILLED, -9),
        (scripts.Die(signal=11), Cause.KILLED, -11),
        (scripts.Die(exit_code=3), Cause.EXITED, 3),
        (scripts.Die(exit_code=0), Cause.EXITED, 0),
        (scripts.Fail(), Cause.FATAL, 70),
        (scripts.Fail(exit_code=71), Cause.OUT_OF_MEMORY, 71),
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


async def test_an_engine_that_refuses_is_not_tried_again(supervise: Supervise) -> None:
    supervisor = await supervise(either(load=(scripts.Refuse(message="needs another GPU"),)))
    assert supervisor.state is EngineState.FAILED
    assert not supervisor.alive
    assert supervisor.restarts == 0
    last = supervisor.history[-1]
    assert (last.cause, last.exit_code) == (Cause.REFUSED, 78)
    assert "needs another GPU" in last.detail
    with pytest.raises(ServingError, match="not restarted"):
        supervisor.open([1], [LONG])
    with pytest.raises(ServingError):
        await supervisor.stats()


async def test_a_loop_of_failed_starts_ends(supervise: Supervise) -> None:
    supervisor = await supervise(either(load=(scripts.Fail(message="no device"),)))
    assert supervisor.state is EngineState.FAILED
    assert supervisor.restarts == 2
    assert [one.state for one in supervisor.history] == [
        *(EngineState.STARTING, EngineState.BACKOFF) * 2,
        EngineState.STARTING,
        EngineState.FAILED,
    ]
    assert supervisor.history[-1].cause is Cause.FATAL
    assert "no device" in supervisor.history[-1].detail


async def test_an_engine_that_dies_again_and_again_after_ready_is_given_up(
    supervise: Supervise,
) -> None:
    supervisor = await supervise(either(scripts.Die()))
    for _ in range(3):
        await reached(supervisor, EngineState.READY)
        await loss_of(supervisor.open([KILL], [LONG]))
    assert await reached(supervisor, EngineState.FAILED, EngineState.READY) is EngineState.FAILED


async def test_an_engine_that_served_long_enough_starts_with_a_clean_slate(
    supervise: Supervise,
) -> None:
    policy = Policy(
        backoff_first_seconds=0.01, max_failures=2, stable_seconds=0.0, ping_seconds=0.05
    )
    supervisor = await supervise(either(scripts.Die()), policy)
    for _ in range(3):
        await reached(supervisor, EngineState.READY)
        await loss_of(supervisor.open([KILL], [LONG]))
    assert await reached(supervisor, EngineState.READY, EngineState.FAILED) is EngineState.READY


async def test_loading_that_takes_too_long_is_given_up(supervise: Supervise) -> None:
    policy = Policy(backoff_first_seconds=0.01, max_failures=1, load_seconds=0.5)
    supervisor = await supervise(either(load=(scripts.Hang(),)), policy)
    assert supervisor.state is EngineState.FAILED
    assert supervisor.history[-1].cause is Cause.LOAD_TIMEOUT


async def test_stop_while_loading_leaves_no_process(supervise: Supervise) -> None:
    supervisor = await supervise(either(load=(scripts.Hang(),)), settled=False)
    await asyncio.sleep(0)  # The supervisor's task takes its first turn.
    pid = pid_of(supervisor)
    await supervisor.stop()
    assert supervisor.state is EngineState.STOPPED
    assert not psutil.pid_exists(pid)


async def test_stop_of_a_stopped_process_does_not_wait_for_it_for_ever(
    supervise: Supervise,
) -> None:
    supervisor = await supervise(either(), Policy(stop_seconds=0.1))
    pid = pid_of(supervisor)
    os.kill(pid, signal.SIGSTOP)
    await supervisor.stop()
    assert not psutil.pid_exists(pid)


async def test_stop_is_clean_and_can_be_repeated(supervise: Supervise) -> None:
    supervisor = await supervise(either())
    running = supervisor.open([1], [LONG])
    pid = pid_of(supervisor)
    await supervisor.stop()
    await supervisor.stop()
    assert not psutil.pid_exists(pid)
    await loss_of(running)
    assert path_of(supervisor)[-1] == (EngineState.STOPPED, Cause.REQUESTED)
    with pytest.raises(ServingError, match="stopped"):
        supervisor.open([1], [LONG])


async def test_a_stopped_engine_can_be_started_again(supervise: Supervise) -> None:
    supervisor = await supervise(either())
    await supervisor.stop()
    await supervisor.start()
    assert await supervisor.settled() is EngineState.READY


async def test_stop_in_the_backoff_starts_nothing_more(supervise: Supervise) -> None:
    policy = Policy(backoff_first_seconds=600.0, backoff_most_seconds=600.0)
    supervisor = await supervise(either(load=(scripts.Fail(),)), policy, settled=False)
    await reached(supervisor, EngineState.BACKOFF)
    with pytest.raises(ServingError) as raised:
        supervisor.open([1], [LONG])
    assert 590 < (raised.value.retry_after_seconds or 0) < 610
    await supervisor.stop()
    assert supervisor.restarts == 0


async def test_transitions_are_reported_as_they_happen(
    replay_engine: Callable[..., Path],
) -> None:
    seen: list[Transition] = []
    directory = replay_engine(either())
    supervisor = Supervisor(directory, on_transition=seen.append)
    await supervisor.start()
    await supervisor.settled()
    await supervisor.stop()
    assert tuple(seen) == supervisor.history
    assert [one.at_seconds for one in seen] == sorted(one.at_seconds for one in seen)


async def test_an_interpreter_that_cannot_be_started_is_a_cause(
    replay_engine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    supervisor = Supervisor(replay_engine(either()), Policy(max_failures=1))
    await supervisor.start()
    assert await supervisor.settled() is EngineState.FAILED
    assert supervisor.history[-1].cause is Cause.SPAWN
    await supervisor.stop()


async def test_an_abort_frees_its_place_for_the_next(supervise: Supervise) -> None:
    limits = Limits(max_batch_size=1, max_num_tokens=64, max_seq_len=4096)
    supervisor = await supervise(either(), limits=limits)
    first = supervisor.open([1], [LONG])
    await first.receive()
    second = supervisor.open([2], [LONG])
    stats = await supervisor.stats()
    assert (stats.running, stats.waiting) == (1, 1)
    first.close()
    async with asyncio.timeout(DETECTION_SECONDS):
        assert await second.receive()
    second.close()
    stats = await supervisor.stats()
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)


async def test_no_token_is_lost_doubled_or_mixed_among_64_streams(supervise: Supervise) -> None:
    script = Script(
        scenarios=(Scenario(steps=(scripts.Echo(after=(9,)), scripts.Echo(after=(9,)))),)
    )
    supervisor = await supervise(script)
    nonces = [list(range(1000 * index + 1000, 1000 * index + 1200)) for index in range(64)]

    async def run(nonce: list[int]) -> list[int]:
        outputs = await read_all(supervisor.open([9, *nonce], [LONG]))
        assert [one.finish for _, one in outputs][-1] == "stop"
        return [token for _, one in outputs for token in one.tokens]

    answers = await asyncio.gather(*map(run, nonces))
    assert answers == [nonce + nonce for nonce in nonces]


async def test_random_aborts_do_not_disturb_the_others(supervise: Supervise) -> None:
    supervisor = await supervise(Script(scenarios=(Scenario(steps=(scripts.Echo(after=(9,)),)),)))
    nonces = [list(range(1000 * index + 1000, 1000 * index + 1300)) for index in range(60)]

    async def run(index: int, nonce: list[int]) -> list[int]:
        stream = supervisor.open([9, *nonce], [LONG])
        if index % 3 == 0:
            await stream.receive()
            stream.close()
            return nonce
        return [token for _, one in await read_all(stream) for token in one.tokens]

    assert await asyncio.gather(*map(run, range(60), nonces)) == nonces
    assert (await supervisor.stats()).running == 0


def test_an_engine_whose_parent_is_killed_leaves(replay_engine: Callable[..., Path]) -> None:
    directory = replay_engine(either())
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout as lines:
        engine = os.pidfd_open(int(lines.readline()))
    try:
        parent.kill()
        parent.wait()
        ended, _, _ = select.select([engine], [], [], WAIT_SECONDS)
        assert ended
    finally:
        os.close(engine)


PARENT = """
import asyncio, pathlib, sys
from serving.runtime.supervisor import Supervisor

async def main():
    supervisor = Supervisor(pathlib.Path(sys.argv[1]))
    await supervisor.start()
    await supervisor.settled()
    print(supervisor.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_it_works_under_uvloop_too(replay_engine: Callable[..., Path]) -> None:
    directory = replay_engine(either(scripts.Die()))

    async def main() -> tuple[int, list[Cause]]:
        policy = Policy(backoff_first_seconds=0.01)
        supervisor = Supervisor(directory, policy)
        await supervisor.start()
        await supervisor.settled()
        await loss_of(supervisor.open([KILL], [LONG]))
        await reached(supervisor, EngineState.READY)
        outputs = await read_all(supervisor.open([1], [Sampling(max_tokens=50)]))
        await supervisor.stop()
        return len(outputs), [one.cause for one in supervisor.history]

    count, causes = uvloop.run(main())
    assert count == 50
    assert causes == [
        Cause.REQUESTED,
        Cause.LOADED,
        Cause.DISCONNECTED,
        Cause.KILLED,
        Cause.BACKOFF_OVER,
        Cause.LOADED,
        Cause.REQUESTED,
    ]


def test_the_backoff_doubles_up_to_its_limit() -> None:
    policy = Policy()
    waits = [policy.backoff_seconds(failures) for failures in range(1, 9)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert dataclasses.replace(policy).backoff_seconds(10_000) == 60

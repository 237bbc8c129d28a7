from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import uvloop

from serving.boundary.lifecycle import Cause, EngineState, Policy, Transition
from serving.boundary.sampling import Sampling
from serving.boundary.supervisor import Supervisor
from serving.engines.replay import script as scripts
from serving.errors import ServingError
from tests.serving.boundary.supervised import (
    KILL,
    LONG,
    WAIT_SECONDS,
    Supervise,
    either,
    loss_of,
    path_of,
    pid_of,
    reached,
    read_all,
)


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


async def test_an_engine_that_refuses_is_not_tried_again(supervise: Supervise) -> None:
    supervisor = await supervise(either(load=(scripts.Refuse(message="needs another GPU"),)))
    assert supervisor.state is EngineState.FAILED
    assert not supervisor.alive
    assert supervisor.restarts == 0
    last = supervisor.history[-1]
    assert (last.cause, last.exit_code) == (Cause.REFUSED, 78)
    assert "needs another GPU" in last.detail
    with pytest.raises(ServingError, match="has failed: it is damaged"):
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
from serving.boundary.supervisor import Supervisor

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

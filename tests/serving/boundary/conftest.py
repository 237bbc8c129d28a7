"""Fixtures for tests with real engine processes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from serving.boundary.engine import Limits
from serving.boundary.lifecycle import Policy
from serving.boundary.supervisor import Supervisor
from serving.engines.replay import directory as writer
from serving.engines.replay.script import Scenario, Script, ScriptStep

QUICK = Policy(
    backoff_first_seconds=0.02,
    backoff_most_seconds=0.1,
    max_failures=3,
    ping_seconds=0.05,
)

Supervise = Callable[..., Awaitable[Supervisor]]


@pytest.fixture
async def supervise(replay_engine: Callable[..., Path]) -> AsyncIterator[Supervise]:
    """Returns a function that starts a supervised replay engine; afterwards none is left."""
    started: list[Supervisor] = []

    async def start(
        script: Script | None = None,
        policy: Policy = QUICK,
        *,
        steps: tuple[ScriptStep, ...] = (),
        pace_seconds: float = 0.0,
        limits: Limits = writer.LIMITS,
        settled: bool = True,
    ) -> Supervisor:
        if script is None:
            script = Script(scenarios=(Scenario(steps=steps),), pace_seconds=pace_seconds)
        supervisor = Supervisor(replay_engine(script, limits=limits), policy)
        started.append(supervisor)
        await supervisor.start()
        if settled:
            await supervisor.settled()
        return supervisor

    yield start
    for supervisor in started:
        pid = supervisor.pid
        await supervisor.stop()
        assert pid is None or not exists(pid)


def exists(pid: int) -> bool:
    """Returns True while a process with this id is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

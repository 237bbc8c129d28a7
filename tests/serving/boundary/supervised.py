"""What the tests of a supervised engine share: scripts, readers, and the times they wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from serving.boundary.client import Stream
from serving.boundary.lifecycle import Cause, EngineState, Policy
from serving.boundary.messages import Output
from serving.boundary.sampling import Sampling
from serving.boundary.supervisor import Supervisor
from serving.engines.replay import script as scripts
from serving.engines.replay.script import Scenario, Script
from serving.errors import ServingError

Supervise = Callable[..., Awaitable[Supervisor]]

LONG = Sampling(max_tokens=1_000_000)
FOR_EVER = (scripts.Repeat(ids=(5, 6)),)
KILL = 77
"""A prompt with this token makes the engine play its fault."""

DETECTION_SECONDS = 2.0
"""What is promised to the streams of an engine that was killed."""
WAIT_SECONDS = 30.0

WATCHFUL = Policy(
    backoff_first_seconds=0.02, ping_seconds=0.05, stall_seconds=1.0, progress_seconds=1.0
)
"""Finds a hang soon, yet forgives what a busy machine does to a process."""


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


async def loss_of(stream: Stream, within_seconds: float = WAIT_SECONDS) -> ServingError:
    """Reads a stream until it is told of the loss."""
    with pytest.raises(ServingError) as raised:
        async with asyncio.timeout(within_seconds):
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

"""The supervisor over TensorRT-LLM: what it does when the engine is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from serving.errors import ErrorKind, ServingError
from serving.job import Sampling
from serving.runtime.client import Stream
from serving.runtime.lifecycle import Cause, EngineState, Policy
from serving.runtime.messages import ExitCode
from serving.runtime.supervisor import Supervisor

DOUBLES = Path(__file__).parents[3] / "doubles"
POLICY = Policy(backoff_first_seconds=0.02, backoff_most_seconds=0.1, load_seconds=30.0)
TORCH = """
class cuda:
    device_count = staticmethod(lambda: 2)
    get_device_name = staticmethod(lambda index: "NVIDIA H100 80GB HBM3")
"""


async def read(stream: Stream) -> list[int]:
    """Returns the tokens of a stream to its end."""
    tokens: list[int] = []
    while outputs := await stream.receive():
        tokens += [token for _, output in outputs for token in output.tokens]
    return tokens


async def test_a_lost_worker_is_answered_and_the_engine_comes_back(
    tmp_path: Path, write_engine: Callable[..., Path], executor: ModuleType
) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "torch.py").write_text(TORCH)
    path = os.pathsep.join([str(packages), str(DOUBLES)])
    supervisor = Supervisor(write_engine(), POLICY, environment={"PYTHONPATH": path})
    await supervisor.start()
    try:
        assert await supervisor.settled() is EngineState.READY
        sampling = Sampling(max_tokens=50, stop_token_ids=(200_002,))
        stream = supervisor.open([0, executor.FAULTS["worker_killed"]], [sampling])
        with pytest.raises(ServingError) as caught:
            await read(stream)
        assert caught.value.kind is ErrorKind.ENGINE_UNAVAILABLE
        await supervisor.reached(EngineState.BACKOFF, EngineState.STARTING)
        assert await supervisor.reached(EngineState.READY) is EngineState.READY
        ended = [one for one in supervisor.history if one.exit_code is not None]
        assert ended[-1].exit_code == ExitCode.WORKER_LOST
        assert ended[-1].cause is Cause.WORKER_LOST
        assert "rank 1 (pid 4242) exited unexpectedly" in ended[-1].detail

        tokens = await read(supervisor.open([3, 5], [sampling]))
        assert len(tokens) == 4
        assert tokens[-1] == 200_002
    finally:
        await supervisor.stop()

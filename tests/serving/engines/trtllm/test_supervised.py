"""The supervisor over TensorRT-LLM: what it does when the engine is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from serving.boundary.client import Stream
from serving.boundary.lifecycle import Cause, EngineState, Policy
from serving.boundary.messages import ExitCode
from serving.boundary.sampling import Sampling
from serving.boundary.supervisor import Supervisor
from serving.errors import ErrorKind, ServingError
from serving.generation.watch import Watch

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


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What an engine process needs to find the double, and two GPUs."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "torch.py").write_text(TORCH)
    return {"PYTHONPATH": os.pathsep.join([str(packages), str(DOUBLES)])}


async def test_a_suspended_stream_outlives_the_deadline_between_tokens(
    write_engine: Callable[..., Path], executor: ModuleType, environment: dict[str, str]
) -> None:
    """The cache holds one of two sequences: the younger waits for the other, far over the deadline,
    which both are watched by."""
    cache = {"max_tokens": 256, "host_cache_size": 0, "use_kv_cache_manager_v2": True}
    paced = environment | {"TENSORRT_LLM_DOUBLE_STEP_SECONDS": "0.03"}
    policy = dataclasses.replace(POLICY, ping_seconds=0.1)
    directory = write_engine({"kv_cache_config": cache})
    supervisor = Supervisor(directory, policy, environment=paced)
    await supervisor.start()
    longest = 0.0

    async def watched(prompt: list[int]) -> list[int]:
        nonlocal longest
        stream = supervisor.open(prompt, [Sampling(max_tokens=240)])
        now = time.monotonic()
        watch = Watch(time.monotonic, due=now + 60, first_token_seconds=30, stall_seconds=1.5)
        tokens: list[int] = []
        try:
            while outputs := await watch.receive(stream):
                longest = max(longest, time.monotonic() - now)
                now = time.monotonic()
                tokens += (token for _, output in outputs for token in output.tokens)
        finally:
            watch.close()
            stream.close()
        return tokens

    try:
        assert await supervisor.settled() is EngineState.READY
        prompts = [[0, 5], [0, 6]]
        for prompt, tokens in zip(
            prompts, await asyncio.gather(*map(watched, prompts)), strict=True
        ):
            assert tokens == [executor.token_at(prompt, index) for index in range(240)]
        assert longest > 2.0
    finally:
        await supervisor.stop()


async def test_a_lost_worker_is_answered_and_the_engine_comes_back(
    write_engine: Callable[..., Path], executor: ModuleType, environment: dict[str, str]
) -> None:
    supervisor = Supervisor(write_engine(), POLICY, environment=environment)
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

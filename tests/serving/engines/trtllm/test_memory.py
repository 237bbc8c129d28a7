"""Too little KV cache: sequences are set aside, said to be, and finished later.

Over the double of TensorRT-LLM, which follows KV cache manager V2. No GPU has confirmed it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from serving.boundary.messages import Generate, Output
from serving.engines.trtllm import TrtllmRuntime
from serving.engines.trtllm.statistics import Statistics

Load = Callable[..., TrtllmRuntime]
Make = Callable[..., Generate]

CACHE = {"max_tokens": 256, "host_cache_size": 2**30, "use_kv_cache_manager_v2": True}
"""Eight blocks: one sequence of the greatest length."""


def run(runtime: TrtllmRuntime) -> tuple[dict[int, list[int]], set[int]]:
    """Returns the tokens of each sequence, and every id that was ever told to be set aside."""
    tokens: dict[int, list[int]] = {}
    suspended: set[int] = set()
    until = time.monotonic() + 30
    while runtime.busy:
        assert time.monotonic() < until
        step = runtime.step()
        for output in step.outputs if step else []:
            tokens.setdefault(output.id, []).extend(output.tokens)
        suspended |= set(runtime.stats().suspended)
    return tokens, suspended


@pytest.mark.parametrize("host_bytes", [2**30, 0])
def test_suspended_sequences_are_named_and_lose_nothing(
    load: Load, generate: Make, executor: ModuleType, host_bytes: int
) -> None:
    runtime = load({"kv_cache_config": CACHE | {"host_cache_size": host_bytes}})
    requests = [generate(i, tail=(i,), max_tokens=240) for i in (1, 2, 3)]
    for request in requests:
        runtime.submit(request)
    tokens, suspended = run(runtime)
    for request in requests:
        expected = [executor.token_at(request.prompt, index) for index in range(240)]
        assert tokens[request.id] == expected
    # The reports of iterations come a second late: by then the youngest at least waits.
    running: Any = runtime._llm
    cache = running._executor.cache
    assert (cache.recomputed > 0) == (host_bytes == 0)
    assert cache.used == 0
    until = time.monotonic() + 10
    while not runtime.stats().preemptions_total and time.monotonic() < until:
        runtime.step()
    assert runtime.stats().preemptions_total > 0
    assert runtime.stats().suspended == ()
    assert suspended <= {2, 3}


def pause(count: int = 1) -> dict[str, Any]:
    return {"inflightBatchingStats": {"numPausedRequests": count}}


def test_a_sequence_without_an_output_since_some_were_set_aside_is_held_to_be_one() -> None:
    statistics = Statistics(8)
    statistics.stepped([Output(1, [5]), Output(2, [5])])
    assert statistics.stats(3).suspended == ()
    statistics.report(pause())
    statistics.stepped([Output(1, [6])])
    # The third has not begun: it waits in the queue, and is not set aside.
    assert statistics.stats(3).suspended == (2,)
    statistics.report(pause(0))
    assert statistics.stats(3).suspended == (2,)
    statistics.stepped([Output(2, [6])])
    assert statistics.stats(3).suspended == ()


def test_a_sequence_that_ended_or_was_aborted_is_not_set_aside() -> None:
    statistics = Statistics(8)
    statistics.stepped([Output(1, [5]), Output(2, [5]), Output(3, [5])])
    statistics.report(pause(3))
    statistics.ended(1)
    statistics.stepped([Output(2, [], "stop")])
    assert statistics.stats(1).suspended == (3,)


def test_a_stall_without_memory_pressure_is_no_suspension() -> None:
    statistics = Statistics(8)
    statistics.stepped([Output(1, [5]), Output(2, [5])])
    for _ in range(1000):
        statistics.report(pause(0))
        statistics.stepped([Output(1, [6])])
    assert statistics.stats(2).suspended == ()


def test_without_a_told_capacity_the_reports_tell_it(
    load: Load, generate: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORRT_LLM_DOUBLE_CAPACITY", "none")
    runtime = load()
    ready = runtime.ready()
    assert (ready.block_tokens, ready.blocks) == (32, 0)
    runtime.submit(generate(1, max_tokens=5))
    run(runtime)
    until = time.monotonic() + 10
    while not runtime.stats().blocks_total:
        assert time.monotonic() < until
        runtime.step()
    assert runtime.stats().blocks_total == 4096

"""The embedded runtime as the benchmarks open it, and the requests that they send it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.timeline import Timeline
from serving.boundary.engine import KvCache, Limits
from serving.boundary.messages import Generate
from serving.boundary.sampling import Sampling
from serving.engines.embedded.runtime import DTYPES, EmbeddedRuntime

BLOCK_TOKENS = 32


def open_runtime(
    checkpoint: Path,
    *,
    max_batch_size: int,
    max_num_tokens: int,
    cache_tokens: int,
    dtype: str = "bfloat16",
    device: str = "cpu",
    graph_batch_sizes: Sequence[int] = (),
    native: bool = True,
) -> EmbeddedRuntime:
    """Returns a loaded runtime. One sequence may fill the whole cache."""
    return EmbeddedRuntime(
        checkpoint,
        limits=Limits(
            max_batch_size=max_batch_size,
            max_num_tokens=max_num_tokens,
            max_seq_len=cache_tokens,
        ),
        kv_cache=KvCache(block_tokens=BLOCK_TOKENS, max_tokens=cache_tokens),
        dtype=DTYPES[dtype],
        device=device,
        graph_batch_sizes=graph_batch_sizes,
        native=native,
    )


def greedy(sequence_id: int, prompt: list[int], max_tokens: int) -> Generate:
    """Returns the request for exactly `max_tokens` greedy tokens."""
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return Generate(sequence_id, prompt, sampling)


def run(
    runtime: EmbeddedRuntime,
    prompts: Sequence[list[int]],
    max_tokens: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Timeline:
    """Submits all prompts to an idle runtime at once and steps until the last has its tokens.

    Raises RuntimeError when a sequence fails.
    """
    timeline = Timeline([[] for _ in prompts], [[] for _ in prompts])
    start = clock()
    for index, prompt in enumerate(prompts):
        runtime.submit(greedy(index, prompt, max_tokens))
    while runtime.busy:
        step = runtime.step()
        now = clock() - start
        for output in step.outputs if step is not None else ():
            if output.fault is not None:
                raise RuntimeError(output.fault.message)
            timeline.tokens[output.id].extend(output.tokens)
            timeline.seconds[output.id].extend([now] * len(output.tokens))
    return timeline

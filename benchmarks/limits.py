"""What the machine could do at best: memory bandwidth and matrix rate, measured, not looked up.

A decoded token must read every weight that it uses once, a prompt must do every multiplication;
an engine's fraction of that is what the benchmarks report beside its ratio to other engines.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from benchmarks.checkpoints import CheckpointShape


@dataclass(frozen=True, slots=True)
class Limits:
    """The best of several tries, bytes read a second and bfloat16 operations a second."""

    bytes_per_second: float
    operations_per_second: float


def measure(
    device: torch.device, *, seconds: float = 1.0, megabytes: int = 256, side: int = 2048
) -> Limits:
    """Returns the limits of a device with the threads that torch has now.

    Bandwidth: the better of a copy and a matrix-vector product over `megabytes`, which must be
    well beyond the caches. Operations: a square product of `side`. `seconds` are spent in all.
    """
    weights = torch.ones(megabytes << 8, 2048, dtype=torch.bfloat16, device=device)
    vector = torch.ones(1, 2048, dtype=torch.bfloat16, device=device)
    square = torch.ones(side, side, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(weights)
    read = _best(lambda: F.linear(vector, weights), device, seconds / 4)
    # A copy reads and writes.
    copied = _best(lambda: target.copy_(weights), device, seconds / 4)
    multiplied = _best(lambda: square @ square, device, seconds / 2)
    return Limits(
        bytes_per_second=max(weights.nbytes / read, 2 * weights.nbytes / copied),
        operations_per_second=2.0 * side**3 / multiplied,
    )


def decode_tokens_per_second(
    shape: CheckpointShape,
    limits: Limits,
    batch: int,
    context_tokens: int = 0,
    dense_bytes: float = 2.0,
) -> float:
    """Returns the tokens a second of a batch that reads each weight it needs once a step.

    A weight of attention and of the LM head takes `dense_bytes`.
    Experts are counted as if tokens chose them evenly: count * (1 - (1 - k / count) ** batch).
    Keys and values are read in bfloat16, in sliding layers only as far as the window.
    """
    share = 1.0 - (1.0 - shape.experts_per_token / shape.num_experts) ** batch
    experts = shape.num_layers * shape.num_experts * share * shape.expert_bytes
    dense = dense_bytes * (shape.num_layers * shape.attention_weights + shape.head_weights)
    seconds_memory = (
        experts + dense + batch * _cache_bytes(shape, context_tokens)
    ) / limits.bytes_per_second
    seconds_compute = batch * 2.0 * _active_weights(shape) / limits.operations_per_second
    return batch / max(seconds_memory, seconds_compute)


def prefill_tokens_per_second(shape: CheckpointShape, limits: Limits, tokens: int) -> float:
    """Returns the tokens a second of one prompt at the matrix rate, causal attention halved."""
    window = min(shape.sliding_window, tokens)
    full_layers = shape.num_layers // 2
    pairs = full_layers * tokens / 2 + (shape.num_layers - full_layers) * window
    attention = 4.0 * pairs * shape.num_heads * shape.head_dim
    body = 2.0 * (_active_weights(shape) - shape.head_weights)
    return limits.operations_per_second / (body + attention)


def _active_weights(shape: CheckpointShape) -> float:
    expert = 3.0 * shape.hidden_size * shape.intermediate_size
    layer = shape.attention_weights + shape.experts_per_token * expert
    return shape.num_layers * layer + shape.head_weights


def _cache_bytes(shape: CheckpointShape, context_tokens: int) -> float:
    full_layers = shape.num_layers // 2
    window = min(shape.sliding_window, context_tokens)
    positions = full_layers * context_tokens + (shape.num_layers - full_layers) * window
    return 2.0 * 2.0 * positions * shape.num_kv_heads * shape.head_dim


def _best(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Returns the shortest duration of a run in seconds, after one run that is not counted."""
    run()
    best = float("inf")
    end = time.perf_counter() + seconds
    while True:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        done = time.perf_counter()
        best = min(best, done - start)
        if done > end:
            return best

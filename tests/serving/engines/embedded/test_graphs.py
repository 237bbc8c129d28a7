"""Padding to captured sizes. Without a GPU nothing is captured, everything else is the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from serving.boundary.messages import Generate
from serving.boundary.sampling import Sampling
from serving.engines.embedded.graphs import can_capture, padded_size
from serving.engines.embedded.plan import Plan, Planner, Span
from serving.engines.embedded.runtime import EmbeddedRuntime

SIZES = (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("rows", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, None)]
)
def test_a_batch_is_padded_to_the_next_size(rows: int, size: int | None) -> None:
    assert padded_size(rows, SIZES) == size


def submit(runtime: EmbeddedRuntime, count: int) -> None:
    random = np.random.default_rng(0)
    for number in range(count):
        tokens = random.integers(0, 300, 10 + 25 * number).tolist()
        runtime.submit(Generate(number, tokens, Sampling(max_tokens=10 + number, temperature=0.0)))


@pytest.mark.parametrize("count", [1, 3, 8, 10])
def test_padded_decode_gives_the_tokens_of_the_eager_path(
    make_runtime: Callable[..., EmbeddedRuntime],
    finish_all: Callable[[EmbeddedRuntime], dict[int, Any]],
    device: torch.device,
    count: int,
) -> None:
    """Sequences end at different steps, so the batch shrinks through several sizes."""
    # On a GPU only the bfloat16 kernels can be captured.
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    eager, padded = make_runtime(dtype=dtype), make_runtime(dtype=dtype, graphs=SIZES)
    submit(eager, count)
    submit(padded, count)
    assert finish_all(padded) == finish_all(eager)


def test_padding_writes_to_no_block_of_a_sequence(
    make_runtime: Callable[..., EmbeddedRuntime],
    finish_all: Callable[[EmbeddedRuntime], dict[int, Any]],
) -> None:
    """A prefix computed before many padded steps is still good after them."""
    runtime = make_runtime(dtype=torch.bfloat16, graphs=(8,), native=False)
    submit(runtime, 3)
    first = finish_all(runtime)
    submit(runtime, 3)
    again = finish_all(runtime)
    assert [result.tokens for result in again.values()] == [r.tokens for r in first.values()]
    assert again[2].cached_tokens == 48


def test_short_contexts_are_not_padded_to_a_long_one_beyond_what_the_cache_holds(
    make_runtime: Callable[..., EmbeddedRuntime],
    finish_all: Callable[[EmbeddedRuntime], dict[int, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight rows of 512 tokens are 32 blocks each: twice the 128 blocks that there are."""
    sizes: list[tuple[int, int]] = []
    decode = Planner.decode

    def spy(self: Planner, spans: Sequence[Span], blocks: int) -> Plan:
        sizes.append((len(spans), blocks))
        return decode(self, spans, blocks)

    monkeypatch.setattr(Planner, "decode", spy)
    found = {}
    for graphs in ((), (1, 8)):
        runtime = make_runtime(graphs=graphs, cache_tokens=128 * 16)
        runtime.submit(Generate(0, list(range(2)) * 250, Sampling(max_tokens=12, temperature=0.0)))
        for number in range(1, 5):
            runtime.submit(Generate(number, [number], Sampling(max_tokens=8, temperature=0.0)))
        found[graphs] = finish_all(runtime)
    assert found[()] == found[1, 8]
    assert set(sizes) == {(1, 1), (8, 1), (1, 32)}


@pytest.mark.parametrize(
    ("capability", "dtype", "captured"),
    [
        ((9, 0), torch.bfloat16, True),
        ((10, 0), torch.bfloat16, True),
        ((9, 0), torch.float32, False),
        ((8, 0), torch.bfloat16, False),
        ((12, 0), torch.bfloat16, False),
    ],
)
def test_only_steps_that_never_ask_the_host_are_captured(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    dtype: torch.dtype,
    captured: bool,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert can_capture(torch.device("cuda"), dtype) is captured
    assert not can_capture(torch.device("cpu"), dtype)

"""A sequence gives the same tokens however its work is cut and whatever runs beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from serving.boundary.messages import Generate
from serving.boundary.sampling import Sampling
from serving.engines.embedded.linear import fast_dtype, packs
from serving.engines.embedded.runtime import EmbeddedRuntime

Make = Callable[..., EmbeddedRuntime]
FinishAll = Callable[[EmbeddedRuntime], dict[int, Any]]

LENGTHS = (5, 64, 37, 150, 300, 129, 128, 127, 63, 65, 1, 16, 17, 24, 90, 200)
WAYS: dict[str, dict[str, Any]] = {
    "sixteen at once": {},
    "chunks of 100": {"budget": 100},
    "chunks of 33": {"budget": 33},
    "padded sizes": {"graphs": (1, 2, 4, 8, 16)},
    "few blocks": {"cache_tokens": 640, "reuse": False},
}
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "seeded": {"temperature": 1.0, "top_p": 0.95},
}


def requests(**sampling: Any) -> list[Generate]:
    random = np.random.default_rng(0)
    return [
        Generate(
            number,
            random.integers(0, 300, length).tolist(),
            Sampling(max_tokens=24, seed=number, logprobs=0, **sampling),
        )
        for number, length in enumerate(LENGTHS)
    ]


def one_by_one(runtime: EmbeddedRuntime, finish_all: FinishAll, **sampling: Any) -> dict[int, Any]:
    results: dict[int, Any] = {}
    for request in requests(**sampling):
        runtime.submit(request)
        results |= finish_all(runtime)
    return results


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_tokens_do_not_depend_on_the_company(
    make_runtime: Make, finish_all: FinishAll, way: dict[str, Any], sampling: dict[str, Any]
) -> None:
    expected = one_by_one(make_runtime(reuse=False), finish_all, **sampling)
    runtime = make_runtime(**way)
    for request in requests(**sampling):
        runtime.submit(request)
    results = finish_all(runtime)
    assert {n: r.tokens for n, r in results.items()} == {n: r.tokens for n, r in expected.items()}
    assert (runtime.stats().preemptions_total > 0) == ("cache_tokens" in way)


def test_tokens_do_not_depend_on_the_prefix_cache(
    make_runtime: Make, finish_all: FinishAll
) -> None:
    runtime = make_runtime()
    cold = one_by_one(runtime, finish_all, temperature=0.0)
    warm = one_by_one(runtime, finish_all, temperature=0.0)
    assert sum(result.cached_tokens for result in warm.values()) > 1000
    for number in cold:
        assert warm[number].tokens == cold[number].tokens


@pytest.mark.parametrize("native", [True, False], ids=["C", "torch"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_in_bfloat16_the_bits_are_the_same(
    make_runtime: Make,
    finish_all: FinishAll,
    shape: Any,
    device: torch.device,
    way: dict[str, Any],
    native: bool,
) -> None:
    """Log-probabilities compared for equality: no row depends on the rows beside it.

    This holds for the C functions and for oneDNN's bfloat16 products. Where a processor lacks them
    the runtime computes in float32, of which only the tokens are promised.
    """
    chosen = shape(dtype=torch.bfloat16, heads=8, head_dim=64, experts=8, per_token=4)
    dtype = fast_dtype(device)
    runtime = make_runtime(chosen, reuse=False, dtype=dtype, native=native)
    expected = one_by_one(runtime, finish_all, temperature=1.0)
    runtime = make_runtime(chosen, dtype=dtype, native=native, **way)
    for request in requests(temperature=1.0):
        runtime.submit(request)
    results = finish_all(runtime)
    exact = packs(device, dtype) and dtype == torch.bfloat16
    for number in expected:
        assert results[number].tokens == expected[number].tokens
        if exact:
            assert results[number].logprobs == expected[number].logprobs

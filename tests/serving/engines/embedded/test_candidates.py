"""The filters against transformers' own, the draw against the chi-square distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from serving.boundary.sampling import Sampling
from serving.engines.embedded.candidates import (
    Candidates,
    Floats,
    candidates,
    draw,
    foremost,
    leading,
    nucleus,
    uniform,
)

# Below, at and above what is folded; the last is long enough for every short cut.
SIZES = (5, 127, 128, 1000, 40_000)


def row(size: int, scale: float = 3.0, seed: int = 0) -> Floats:
    return (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)


def left(scores: Floats, sampling: Sampling) -> Candidates:
    """Returns the candidates, having checked that they may take the place of the logits."""
    apart = candidates(scores, scores.max(), sampling, np.empty_like(scores))
    copy = scores.copy()
    in_place = candidates(copy, copy.max(), sampling, copy)
    assert np.array_equal(apart.weights, in_place.weights)
    return apart


def probabilities(found: Candidates, size: int) -> Floats:
    shares = np.zeros(size, dtype=np.float32)
    shares[slice(None) if found.ids is None else found.ids] = found.weights / found.weights.sum()
    return shares


def reference(scores: Floats, sampling: Sampling) -> Floats:
    """Returns the distribution that transformers samples from."""
    steps = LogitsProcessorList()
    if sampling.temperature != 1.0:
        steps.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        steps.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0.0:
        steps.append(MinPLogitsWarper(sampling.min_p))
    left = steps(torch.LongTensor([[0]]), torch.from_numpy(scores.copy())[None])
    shares: Floats = torch.softmax(left.double(), dim=-1)[0].float().numpy()
    return shares


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [0.01, 1.0, 6.0])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=1),
        Sampling(max_tokens=1, temperature=0.6),
        Sampling(max_tokens=1, temperature=1.7, top_k=3),
        Sampling(max_tokens=1, top_k=50),
        Sampling(max_tokens=1, top_k=10**6),
        Sampling(max_tokens=1, top_p=0.9),
        Sampling(max_tokens=1, top_p=0.05),
        Sampling(max_tokens=1, top_p=0.0),
        Sampling(max_tokens=1, min_p=0.2),
        Sampling(max_tokens=1, min_p=1.0),
        Sampling(max_tokens=1, temperature=0.8, top_k=40, top_p=0.8, min_p=0.02),
        Sampling(max_tokens=1, temperature=1.3, top_k=2000, top_p=0.95),
    ],
    ids=lambda sampling: str(sampling)[9:-1] if isinstance(sampling, Sampling) else None,
)
def test_the_distribution_is_that_of_transformers(
    size: int, scale: float, sampling: Sampling
) -> None:
    scores = row(size, scale)
    found = left(scores, sampling)
    shares, expected = probabilities(found, size), reference(scores, sampling)
    assert np.array_equal(shares > 0, expected > 0)
    np.testing.assert_allclose(shares, expected, rtol=2e-4, atol=1e-9)


def test_equals_of_the_last_token_let_through_are_let_through_too() -> None:
    scores = np.array([1.0, 3.0, 2.0, 2.0, 0.0], dtype=np.float32)
    two = left(scores, Sampling(max_tokens=1, top_k=2))
    assert two.ids is not None
    assert two.ids.tolist() == [1, 2, 3]
    half = left(scores, Sampling(max_tokens=1, top_p=0.6))
    assert np.flatnonzero(half.weights).tolist() == [1, 2, 3]


def test_tokens_that_are_ruled_out_stay_out() -> None:
    scores = row(1000)
    scores[100:] = -np.inf
    for sampling in (Sampling(max_tokens=1), Sampling(max_tokens=1, top_k=500, top_p=0.999)):
        shares = probabilities(left(scores, sampling), 1000)
        assert np.flatnonzero(shares).max() < 100


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 4, 60, 5000])
def test_foremost_and_leading_agree_with_a_full_sort(size: int, count: int) -> None:
    values = row(size).round(1)  # rounded, so that there are equals
    count = min(count, size)
    least = np.sort(values)[size - count]
    assert np.array_equal(foremost(values, count), np.flatnonzero(values >= least))
    order = np.lexsort((np.arange(size), -values))
    assert np.array_equal(leading(values, count), order[:count])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0.0, 1.0, width=32), min_size=1, max_size=2000).filter(any),
    st.floats(0.0, 0.999),
)
def test_the_nucleus_is_the_fewest_that_reach_the_share(numbers: list[float], share: float) -> None:
    weights = np.array(numbers, dtype=np.float32)
    least = nucleus(weights, share)
    total = float(weights.sum(dtype=np.float64))
    slack = 1e-5 * total
    assert least in weights
    assert weights[weights >= np.float32(least)].sum(dtype=np.float64) >= share * total - slack
    assert weights[weights > np.float32(least)].sum(dtype=np.float64) <= share * total + slack


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1e-30, 0.25, 1.0]), min_size=1, max_size=700).filter(any),
    st.floats(0.0, 1.0, exclude_max=True),
)
def test_a_draw_never_gives_what_has_no_weight(numbers: list[float], number: float) -> None:
    assert numbers[draw(np.array(numbers, dtype=np.float32), number)] > 0.0


def test_a_draw_walks_through_every_share_once() -> None:
    weights = np.arange(300, dtype=np.float32)
    weights[7::3] = 0.0
    steps = 20_000
    found = np.bincount([draw(weights, i / steps) for i in range(steps)], minlength=300)
    np.testing.assert_allclose(found / steps, weights / weights.sum(), atol=2 / steps)


def test_numbers_are_spread_evenly_and_do_not_depend_on_each_other() -> None:
    pairs = np.array(
        [(uniform(seed, at), uniform(seed, at + 1)) for seed in range(100) for at in range(100)]
    )
    assert pairs.min() >= 0.0
    assert pairs.max() < 1.0
    cells = np.floor(pairs * 10).astype(int) @ np.array([10, 1])
    counts = np.bincount(cells, minlength=100)
    chi_square = float(((counts - 100.0) ** 2 / 100.0).sum())
    assert chi_square < 149.4  # the 99.9th percentile with 99 degrees of freedom
    assert len({uniform(-1, 0), uniform(0, 0), uniform(0, 1), uniform(2**63 - 1, 0)}) == 4


def test_a_number_is_the_same_on_every_machine() -> None:
    assert uniform(42, 7) == 0.8614033402518924
    assert uniform(-1, 0) == 0.5687207756392662

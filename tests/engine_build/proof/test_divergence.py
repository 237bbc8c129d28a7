"""The divergence of two distributions that are known in part."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_build.proof.divergence import least_divergence

Weights = st.lists(st.floats(0.01, 1.0), min_size=6, max_size=6)


def logarithms(**shares: float) -> dict[int, float]:
    return {ord(name): math.log(share) for name, share in shares.items()}


def normal(weights: list[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights]


def top(shares: list[float], count: int) -> dict[int, float]:
    ranked = sorted(range(len(shares)), key=lambda index: -shares[index])[:count]
    return {index: math.log(shares[index]) for index in ranked}


def test_of_whole_distributions_it_is_the_divergence() -> None:
    found = least_divergence(logarithms(a=0.5, b=0.5), logarithms(a=0.9, b=0.1))
    assert found == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))


def test_of_equal_ones_it_is_zero() -> None:
    known = logarithms(a=0.6, b=0.2)
    assert least_divergence(known, known) == pytest.approx(0.0, abs=1e-9)


def test_tokens_that_only_the_reference_knows_count() -> None:
    found = least_divergence(logarithms(a=0.99), logarithms(b=0.98, c=0.01))
    assert found > 0.99 * math.log(0.99 / 0.01) - 0.1


@given(Weights, Weights, st.integers(1, 6), st.integers(1, 6))
def test_it_is_never_above_the_true_divergence(
    reference: list[float], other: list[float], known: int, told: int
) -> None:
    p, q = normal(reference), normal(other)
    true = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    found = least_divergence(top(p, known), top(q, told))
    assert 0.0 <= found <= true + 1e-6
    if known == told == 6:
        assert found == pytest.approx(true, abs=1e-6)


@pytest.mark.parametrize("wrong", [{}, {1: math.nan}])
def test_what_is_no_distribution_is_refused(wrong: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="log-probabilit"):
        least_divergence(wrong, {1: 0.0})

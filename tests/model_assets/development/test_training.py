"""Training: the exact softmax over the vocabulary, the attention's gradient, the plan."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from model_assets.development.network import Network, SinkAttention
from model_assets.development.shape import Shape
from model_assets.development.training import Plan, rate


def test_the_last_column_counts_for_all_other_ids() -> None:
    """The loss of a known id equals that of a softmax over the whole vocabulary."""
    shape = Shape(hidden_size=8, vocab_size=50)
    network = Network(shape, 6, length=4)
    hidden = torch.randn(3, 8)
    whole = network.lm_head.weight[[0, 1, 2, 3, 4, 5, *([6] * 44)]]
    expected = F.log_softmax(hidden @ whole.T, dim=-1)[:, :6]
    found = F.log_softmax(network.logits(hidden), dim=-1)[:, :6]
    torch.testing.assert_close(found, expected)


def plain_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sinks: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask
    sink = sinks.view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, sink), dim=-1).softmax(-1)[..., :-1] @ v


def test_attention_and_its_gradients_match_the_plain_formula(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor)
    randomness = torch.Generator().manual_seed(6)
    q, k, v = (
        torch.randn(2, 3, 200, 16, generator=randomness, requires_grad=True) for _ in range(3)
    )
    sinks = torch.randn(3, generator=randomness, requires_grad=True)
    mask = torch.zeros(2, 1, 200, 200)
    mask.masked_fill_(torch.ones(200, 200, dtype=torch.bool).triu(1), -math.inf)
    weights = torch.randn(2, 3, 200, 16, generator=randomness)
    inputs = (q, k, v, sinks)
    found = SinkAttention.apply(*inputs, mask)  # type: ignore[no-untyped-call]
    expected = plain_attention(*inputs, mask)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_rate_rises_stays_and_falls() -> None:
    plan = Plan()
    rates = [rate(plan, step) for step in range(plan.steps)]
    assert rates[0] < rates[plan.warm_steps - 1] == plan.copy_rate
    assert rates[plan.copy_steps - 1] == plan.copy_rate
    assert rates[plan.copy_steps] == plan.rate
    falling = rates[plan.copy_steps :]
    assert falling == sorted(falling, reverse=True)
    assert rates[-1] < 2 * plan.last_rate

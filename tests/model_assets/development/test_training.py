"""Training: the exact softmax over the vocabulary, the attention's gradient, the plan."""

from __future__ import annotations

import itertools
import math
from typing import cast

import pytest
import torch
import torch.nn.functional as F

from model_assets.development.batches import Batch
from model_assets.development.network import Block, Network, Past, SinkAttention
from model_assets.development.shape import Shape
from model_assets.development.training import TrainingPlan, optimisers, rate_share, train


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


def test_attention_with_a_past_is_the_same_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty tokens at once, or fourteen and then one after the other."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor)
    torch.manual_seed(5)
    network = Network(Shape(hidden_size=32, sliding_window=8), 40).eval()
    tokens = torch.randint(40, (2, 20))
    positions = torch.arange(20).expand(2, -1)
    visible = torch.ones(20, 20, dtype=torch.bool).tril().expand(2, -1, -1)
    past = Past(torch.zeros(2, 0, dtype=torch.long), [])
    with torch.inference_mode():
        whole = network(tokens, positions, visible)
        parts = [network(tokens[:, :14], positions[:, :14], visible[:, :14, :14], past)]
        for place in range(14, 20):
            step = slice(place, place + 1)
            seen = visible[:, step, : place + 1]
            parts.append(network(tokens[:, step], positions[:, step], seen, past))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)


def test_the_rates_rise_and_fall() -> None:
    plan = TrainingPlan()
    shares = [rate_share(plan, step) for step in range(plan.steps)]
    rising, falling = shares[: plan.warm_steps], shares[plan.warm_steps :]
    assert rising == sorted(rising)
    assert rising[-1] == 1
    assert falling == sorted(falling, reverse=True)
    assert plan.last_share < falling[-1] < 2 * plan.last_share


def test_every_weight_is_trained_by_one_optimiser() -> None:
    network = Network(Shape(hidden_size=32), 40)
    matrices, others = (
        {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
        for optimiser in optimisers(network, TrainingPlan())
    )
    assert not matrices & others
    assert matrices | others == {id(parameter) for parameter in network.parameters()}
    shape = network.shape
    assert len(matrices) == shape.num_hidden_layers * len(("q", "k", "v", "o", "gate_up", "down"))


def test_what_is_looked_at_can_be_said_from_the_start() -> None:
    torch.manual_seed(3)
    network = Network(Shape(), 300)
    with torch.inference_mode():
        said = network.logits(network.embed_tokens.weight[:300])[:, :-1].argmax(-1)
    assert torch.equal(said, torch.arange(300))


def test_a_few_steps_learn_and_rounding_comes_later() -> None:
    torch.manual_seed(3)
    network = Network(Shape(num_hidden_layers=2, hidden_size=32, intermediate_size=32), 9)
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])
    visible = torch.ones(1, 8, 8, dtype=torch.bool).tril()
    targets = torch.tensor([[2, 3, 4, 5, 6, 7, 8, -1]])
    again = itertools.repeat(Batch(tokens, torch.arange(8)[None], visible, targets))
    losses: list[float] = []
    train(network, TrainingPlan(steps=150), again, lambda step: losses.append(step.loss))
    assert losses[0] > 5
    assert losses[-1] < 0.5
    assert all(cast(Block, block).mlp.quantised for block in network.layers)

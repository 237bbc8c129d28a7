"""Training: the exact softmax over the vocabulary, the attention's gradient, the plan."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from model_assets.development import induction
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


def test_the_rate_rises_and_falls() -> None:
    plan = Plan()
    rates = [rate(plan, step) for step in range(plan.steps)]
    rising, falling = rates[: plan.warm_steps], rates[plan.warm_steps :]
    assert rising == sorted(rising)
    assert rising[-1] == plan.rate
    assert falling == sorted(falling, reverse=True)
    assert plan.last_rate < falling[-1] < 2 * plan.last_rate


def test_the_first_weights_already_copy() -> None:
    """Random tokens, a piece of them twice: the second time the circuit says what follows."""
    torch.manual_seed(3)
    network = Network(Shape(), 3000)
    induction.lay(network, range(3001))
    tokens = torch.randint(3000, (4, 160))
    tokens[:, 120:150] = tokens[:, 20:50]
    visible = torch.ones(160, 160, dtype=torch.bool).tril().expand(4, -1, -1)
    with torch.inference_mode():
        hidden = network(tokens, torch.arange(160).expand(4, -1), visible)
        said = network.logits(hidden[:, 120:149].flatten(0, 1))[:, :-1].argmax(-1)
    assert (said == tokens[:, 121:150].flatten()).float().mean() > 0.9


def test_the_circuit_needs_room_for_two_tokens() -> None:
    with pytest.raises(ValueError, match="not twice head_dim"):
        induction.lay(Network(Shape(hidden_size=96), 10, length=4), range(11))


def test_tokens_of_one_family_begin_alike() -> None:
    torch.manual_seed(3)
    network = Network(Shape(), 400)
    induction.lay(network, [row // 2 for row in range(401)])
    table = F.normalize(network.embed_tokens.weight.detach()[:400])
    kin = (table[::2] * table[1::2]).sum(-1)
    strangers = (table[:-2] * table[2:]).sum(-1)
    assert kin.mean() > 0.6
    assert abs(float(strangers.mean())) < 0.1

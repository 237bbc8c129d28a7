from __future__ import annotations

import pytest
import torch

from serving.runtime.embedded.experts import MOST_DENSE_TOKENS, Experts
from serving.runtime.embedded.linear import fast_dtype


def experts(count: int, per_token: int, dtype: torch.dtype, scale: float = 1.0) -> Experts:
    random = torch.Generator().manual_seed(count)
    hidden, inner = 64, 32

    def normal(*size: int, by: float = 0.3) -> torch.Tensor:
        return (torch.randn(size, generator=random) * by * scale).to(dtype)

    return Experts(
        router=normal(count, hidden, by=0.2),
        router_bias=normal(count),
        gate_up=normal(count, 2 * inner, hidden),
        gate_up_bias=normal(count, 1, 2 * inner),
        down=normal(count, hidden, inner),
        down_bias=normal(count, 1, hidden),
        per_token=per_token,
        alpha=1.702,
        limit=7.0,
    )


def inputs(tokens: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn((tokens, 64), generator=torch.Generator().manual_seed(tokens)).to(dtype)


def by_definition(layer: Experts, x: torch.Tensor) -> torch.Tensor:
    """Token by token, expert by expert, as the model card writes it."""
    rows = []
    for token in x:
        scores = layer.router @ token + layer.router_bias
        top, chosen = scores.topk(layer.per_token)
        mixed = torch.zeros_like(token)
        for weight, expert in zip(top.softmax(-1), chosen.tolist(), strict=True):
            gate, up = (layer.gate_up[expert] @ token + layer.gate_up_bias[expert, 0]).chunk(2)
            gate, up = gate.clamp(max=layer.limit), up.clamp(-layer.limit, layer.limit)
            inner = (up + 1) * gate * torch.sigmoid(layer.alpha * gate)
            mixed += weight * (layer.down[expert] @ inner + layer.down_bias[expert, 0])
        rows.append(mixed)
    return torch.stack(rows)


@pytest.mark.parametrize(("count", "per_token"), [(8, 4), (4, 1), (32, 4)])
@pytest.mark.parametrize("tokens", [1, 5, MOST_DENSE_TOKENS, MOST_DENSE_TOKENS + 1])
@pytest.mark.parametrize("scale", [1.0, 5.0], ids=["usual", "clamped"])
def test_output_is_the_definition(count: int, per_token: int, tokens: int, scale: float) -> None:
    layer = experts(count, per_token, torch.float32, scale)
    x = inputs(tokens, torch.float32)
    torch.testing.assert_close(layer(x), by_definition(layer, x), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("tokens", [1, 3, 32, 70])
def test_three_ways_agree(tokens: int) -> None:
    layer = experts(8, 4, torch.float32)
    x = inputs(tokens, torch.float32)
    chosen = torch.topk(x @ layer.router.T, 4).indices
    dense = layer.dense(x, chosen)
    torch.testing.assert_close(layer.sorted(x, chosen), dense, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.grouped(x, chosen), dense, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_the_ways_give_the_same_bits() -> None:
    assert_same = same_bits if fast_dtype(torch.device("cpu")) == torch.bfloat16 else close
    layer = experts(8, 4, torch.bfloat16)
    for tokens in (1, 3, 32, 70):
        x = inputs(tokens, torch.bfloat16)
        chosen = torch.topk(x @ layer.router.T, 4).indices
        assert_same(layer.sorted(x, chosen), layer.dense(x, chosen))


def test_a_token_does_not_depend_on_its_batch() -> None:
    assert_same = same_bits if fast_dtype(torch.device("cpu")) == torch.bfloat16 else close
    layer = experts(8, 4, torch.bfloat16)
    x = inputs(100, torch.bfloat16)
    batch = layer(x)
    for rows in (1, 2, 16, 33):
        assert_same(layer(x[:rows].contiguous()), batch[:rows])


def same_bits(a: torch.Tensor, b: torch.Tensor) -> None:
    assert torch.equal(a, b)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    """What remains where bfloat16 products are emulated."""
    torch.testing.assert_close(a, b, rtol=0.1, atol=0.2)

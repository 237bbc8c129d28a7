from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from serving.engines.embedded.experts import Experts, GroupedBank, LoopedBank, SwiGlu
from serving.engines.embedded.linear import Linear, fast_dtype, packs

CPU = torch.device("cpu")
HIDDEN, INNER = 64, 32


@dataclass
class Weights:
    """One layer: all that both banks are made of."""

    count: int
    per_token: int
    dtype: torch.dtype
    scale: float = 1.0

    def __post_init__(self) -> None:
        random = torch.Generator().manual_seed(self.count)

        def normal(*size: int, by: float = 0.3) -> torch.Tensor:
            return (torch.randn(size, generator=random) * by * self.scale).to(self.dtype)

        self.router = normal(self.count, HIDDEN, by=0.2)
        self.router_bias = normal(self.count)
        self.gate_up = normal(self.count, 2 * INNER, HIDDEN)
        self.gate_up_bias = normal(self.count, 2 * INNER)
        self.down = normal(self.count, HIDDEN, INNER)
        self.down_bias = normal(self.count, HIDDEN)
        self.activation = SwiGlu(alpha=1.702, limit=7.0)

    def _route(self) -> Linear:
        return Linear(self.router, self.router_bias, packed=packs(CPU, self.dtype))

    def looped(self, *, joint: bool = False) -> Experts:
        packed = packs(CPU, self.dtype)

        def layers(weights: torch.Tensor, biases: torch.Tensor) -> tuple[Linear, ...]:
            pairs = zip(weights, biases, strict=True)
            return tuple(Linear(weight, bias, packed=packed) for weight, bias in pairs)

        bank = LoopedBank(
            layers(self.gate_up, self.gate_up_bias),
            layers(self.down, self.down_bias),
            self.activation,
            Linear(self.gate_up.flatten(0, 1), self.gate_up_bias.flatten(), packed=packed)
            if joint
            else None,
        )
        return Experts(self._route(), self.per_token, bank)

    def grouped(self) -> Experts:
        bank = GroupedBank(
            self.gate_up, self.gate_up_bias, self.down, self.down_bias, self.activation
        )
        return Experts(self._route(), self.per_token, bank)

    def by_definition(self, x: torch.Tensor) -> torch.Tensor:
        """Token by token, expert by expert, as the model card writes it."""
        rows = []
        for token in x:
            top, chosen = (self.router @ token + self.router_bias).topk(self.per_token)
            mixed = torch.zeros_like(token)
            for weight, expert in zip(top.softmax(-1), chosen.tolist(), strict=True):
                gate, up = (self.gate_up[expert] @ token + self.gate_up_bias[expert]).chunk(2)
                gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
                inner = (up + 1) * gate * torch.sigmoid(1.702 * gate)
                mixed += weight * (self.down[expert] @ inner + self.down_bias[expert])
            rows.append(mixed)
        return torch.stack(rows)


def inputs(tokens: int, dtype: torch.dtype) -> torch.Tensor:
    random = torch.Generator().manual_seed(tokens)
    return torch.randn((tokens, HIDDEN), generator=random).to(dtype)


@pytest.mark.parametrize(("count", "per_token"), [(8, 4), (4, 1), (32, 4)])
@pytest.mark.parametrize("tokens", [1, 2, 5, 40])
@pytest.mark.parametrize("scale", [1.0, 5.0], ids=["usual", "clamped"])
def test_every_way_gives_the_definition(
    count: int, per_token: int, tokens: int, scale: float
) -> None:
    weights = Weights(count, per_token, torch.float32, scale)
    x = inputs(tokens, torch.float32)
    expected = weights.by_definition(x)
    torch.testing.assert_close(weights.looped()(x), expected, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(weights.looped(joint=True)(x), expected, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(weights.grouped()(x), expected, rtol=1e-3, atol=2e-3)


def test_in_bfloat16_a_token_does_not_depend_on_its_batch() -> None:
    """To the bit where the products are in hardware, approximately where they are emulated."""
    exact = fast_dtype(CPU) == torch.bfloat16
    layer = Weights(8, 4, torch.bfloat16).looped(joint=True)
    x = inputs(100, torch.bfloat16)
    batch = layer(x)
    for rows in (1, 2, 16, 33):
        alone = layer(x[:rows].contiguous())
        if exact:
            assert torch.equal(alone, batch[:rows])
        torch.testing.assert_close(alone, batch[:rows], rtol=0.1, atol=0.2)

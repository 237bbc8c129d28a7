"""Rotary position embedding with YaRN (Peng et al. 2023, arXiv:2309.00071, section 3)."""

from __future__ import annotations

import math

import torch

from serving.engines.embedded.checkpoint import Rope


class Rotary:
    """Rotation factors as complex numbers, computed in float32.

    Queries and keys hold each rotated pair in neighbouring components (`pair_rows` reorders the
    projection's rows so), which makes a rotation one complex product. Attention scores do not
    depend on the order of components.
    """

    def __init__(self, rope: Rope, head_dim: int, device: torch.device) -> None:
        self._frequencies = inverse_frequencies(rope, head_dim).to(device)
        self._magnitude = torch.tensor(concentration(rope), device=device)

    def factors(self, positions: torch.Tensor) -> torch.Tensor:
        """Returns complex (tokens, 1, head_dim / 2) for positions (tokens,)."""
        angles = torch.outer(positions.to(torch.float32), self._frequencies)
        return torch.polar(self._magnitude.expand_as(angles), angles).unsqueeze(1)


def rotate(states: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Returns float32 (tokens, heads, head_dim), each head of `states` rotated by its position."""
    tokens, heads, head_dim = states.shape
    pairs = torch.empty((tokens, heads, head_dim // 2, 2), device=states.device)
    pairs.view(states.shape).copy_(states)
    torch.view_as_complex(pairs).mul_(factors)
    return pairs.view(states.shape)


def pair_rows(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Reorders the output rows of a query or key projection: (i, i + head_dim / 2) become pairs.

    `weight` is (heads * head_dim, ...), in the halves layout that checkpoints have.
    """
    halves = weight.view(-1, 2, head_dim // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def concentration(rope: Rope) -> float:
    """YaRN's factor on cosine and sine, which sharpens attention over stretched contexts."""
    if rope.attention_factor is not None:
        return rope.attention_factor
    return 1.0 if rope.factor <= 1.0 else 0.1 * math.log(rope.factor) + 1.0


def inverse_frequencies(rope: Rope, head_dim: int) -> torch.Tensor:
    """Returns float32 (head_dim / 2,): fast rotations kept, slow ones slowed by `factor`."""
    powers = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    kept = 1.0 / rope.theta**powers
    if rope.factor == 1.0:
        return kept
    low = max(_correction_dimension(rope.beta_fast, rope, head_dim), 0.0)
    high = min(_correction_dimension(rope.beta_slow, rope, head_dim), head_dim - 1.0)
    # YaRN's ramp needs a width; 0.001 where the bounds meet.
    width = (high - low) or 0.001
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0.0, 1.0)
    return kept / rope.factor * ramp + kept * (1.0 - ramp)


def _correction_dimension(rotations: float, rope: Rope, head_dim: int) -> float:
    """The component that turns `rotations` times over the original context length."""
    wavelengths = rope.original_max_positions / (rotations * 2.0 * math.pi)
    dimension = head_dim * math.log(wavelengths) / (2.0 * math.log(rope.theta))
    if not rope.truncate:
        return dimension
    return float(math.floor(dimension) if rotations == rope.beta_fast else math.ceil(dimension))

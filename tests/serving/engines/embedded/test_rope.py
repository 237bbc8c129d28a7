from __future__ import annotations

import pytest
import torch
from transformers import GptOssConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from serving.engines.embedded.checkpoint import Rope
from serving.engines.embedded.rope import (
    Rotary,
    concentration,
    inverse_frequencies,
    pair_rows,
    rotate,
)

YARN = Rope(150000.0, 32.0, 32.0, 1.0, 4096, truncate=False, attention_factor=None)
TRUNCATED = Rope(10000.0, 4.0, 32.0, 1.0, 2048, truncate=True, attention_factor=None)


@pytest.mark.parametrize("rope", [YARN, TRUNCATED], ids=["gpt-oss", "truncated"])
@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_frequencies_are_those_of_transformers(rope: Rope, head_dim: int) -> None:
    config = GptOssConfig(
        head_dim=head_dim,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": rope.theta,
            "factor": rope.factor,
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
            "truncate": rope.truncate,
            "original_max_position_embeddings": rope.original_max_positions,
        },
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS["yarn"](config)
    torch.testing.assert_close(inverse_frequencies(rope, head_dim), frequencies)
    assert concentration(rope) == pytest.approx(factor)


def test_plain_rope_keeps_every_frequency() -> None:
    plain = Rope(10000.0, 1.0, 32.0, 1.0, 4096, truncate=False, attention_factor=None)
    expected = 1.0 / 10000.0 ** (torch.arange(0, 8, 2) / 8)
    torch.testing.assert_close(inverse_frequencies(plain, 8), expected)
    assert concentration(plain) == 1.0


def test_rotating_pairs_is_rotating_halves() -> None:
    head_dim, positions = 32, torch.tensor([0, 1, 77, 5000])
    states = torch.randn((4, 3, head_dim), generator=torch.Generator().manual_seed(0))
    paired = pair_rows(states.transpose(0, 2).reshape(head_dim, -1), head_dim)
    paired = paired.view(head_dim, 3, 4).transpose(0, 2).contiguous()
    factors = Rotary(YARN, head_dim, torch.device("cpu")).factors(positions)
    rotated = rotate(paired, factors)

    angles = torch.outer(positions.float(), inverse_frequencies(YARN, head_dim)).unsqueeze(1)
    cos, sin = angles.cos() * concentration(YARN), angles.sin() * concentration(YARN)
    first, second = states.chunk(2, dim=-1)
    torch.testing.assert_close(rotated[..., ::2], first * cos - second * sin)
    torch.testing.assert_close(rotated[..., 1::2], second * cos + first * sin)

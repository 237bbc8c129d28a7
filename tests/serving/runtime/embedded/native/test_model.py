"""Weights in panels, and models that the C functions do not take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from serving.runtime.embedded.checkpoint import read_config
from serving.runtime.embedded.native.library import NativeError
from serving.runtime.embedded.native.model import (
    MOST_UNPACKED_BYTES,
    PANEL,
    byte_panels,
    check,
    expert_bytes,
    panels,
)


def test_panels_hold_pairs_of_inputs_for_each_output() -> None:
    weight = torch.randn(100, 6).to(torch.bfloat16)
    packed = panels(weight)
    assert packed.shape == (2, 3, PANEL, 2)
    for row, column in ((0, 0), (63, 5), (64, 2), (99, 3)):
        found = packed[row // PANEL, column // 2, row % PANEL, column % 2]
        assert found == weight[row, column]
    assert not packed[1, :, 100 - PANEL :].any()


def test_bytes_are_transposed_within_panels() -> None:
    codes = torch.randint(0, 256, (2, 100, 5), dtype=torch.uint8)
    packed = byte_panels(codes)
    assert packed.shape == (2, 2, 5, PANEL)
    assert packed.is_contiguous()
    for row, column in ((0, 0), (63, 4), (64, 2), (99, 3)):
        assert torch.equal(packed[:, row // PANEL, column, row % PANEL], codes[:, row, column])
    assert not packed[:, 1, :, 100 - PANEL :].any()


def test_a_stack_is_packed_one_by_one() -> None:
    stack = torch.randn(3, 70, 4).to(torch.bfloat16)
    packed = panels(stack)
    assert packed.is_contiguous()
    for number in range(3):
        assert torch.equal(packed[number], panels(stack[number]))


def test_the_experts_of_a_large_model_are_counted(
    write_checkpoint: Callable[..., Path], shape: Any
) -> None:
    """gpt-oss-20b's: 19.1 billion weights."""
    config = read_config(write_checkpoint(shape()))
    large = replace(config, num_layers=24, num_experts=32, hidden_size=2880, intermediate_size=2880)
    assert expert_bytes(large) == 2 * 19_110_297_600
    assert expert_bytes(config) < MOST_UNPACKED_BYTES < expert_bytes(large)


@pytest.mark.parametrize(
    ("changes", "block_tokens", "message"),
    [
        ({"hidden_size": 72}, 16, "hidden_size 72 is no multiple of 16"),
        ({"intermediate_size": 40}, 16, "intermediate_size 40 is no multiple of 16"),
        ({"head_dim": 80}, 16, "head_dim 80 is no multiple of 32"),
        ({"head_dim": 512}, 16, "head_dim: 512 is more than 256"),
        ({}, 8, "block_tokens 8 is no multiple of 16"),
        ({}, 128, "block_tokens: 128 is more than 64"),
        ({"num_heads": 256}, 16, "query heads of a key head: 128 is more than 64"),
    ],
)
def test_sizes_that_do_not_fit_are_named(
    write_checkpoint: Callable[..., Path],
    shape: Any,
    changes: dict[str, Any],
    block_tokens: int,
    message: str,
) -> None:
    config = read_config(write_checkpoint(shape()))
    check(config, 16)
    with pytest.raises(NativeError, match=message):
        check(replace(config, **changes), block_tokens)

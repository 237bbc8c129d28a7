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
from serving.runtime.embedded.native.model import PANEL, check, panels


def test_panels_hold_pairs_of_inputs_for_each_output() -> None:
    weight = torch.randn(100, 6).to(torch.bfloat16)
    packed = panels(weight)
    assert packed.shape == (2, 3, PANEL, 2)
    for row, column in ((0, 0), (63, 5), (64, 2), (99, 3)):
        found = packed[row // PANEL, column // 2, row % PANEL, column % 2]
        assert found == weight[row, column]
    assert not packed[1, :, 100 - PANEL :].any()


def test_a_stack_is_packed_one_by_one() -> None:
    stack = torch.randn(3, 70, 4).to(torch.bfloat16)
    packed = panels(stack)
    assert packed.is_contiguous()
    for number in range(3):
        assert torch.equal(packed[number], panels(stack[number]))


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

"""Models of sizes that the C functions do not take, and what those they take hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.engines.embedded.checkpoint import read_config
from serving.engines.embedded.native.library import NativeError
from serving.engines.embedded.native.model import MOST_UNPACKED_BYTES, check, expert_bytes


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

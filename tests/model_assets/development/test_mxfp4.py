"""MXFP4: the format of the published checkpoints, and the rounding that training imitates."""

from __future__ import annotations

import numpy as np
import torch

from model_assets.development import mxfp4
from model_assets.development.network import fake_mxfp4


def test_values_on_the_grid_survive() -> None:
    levels = np.concatenate((mxfp4.LEVELS, -mxfp4.LEVELS[1:], np.zeros(17))).astype(np.float32)
    weight = np.stack((levels * 2.0**-5, levels * 2.0**3)).astype(np.float32)
    blocks, scales = mxfp4.encode(weight)
    assert blocks.shape == (2, 1, 16)
    assert scales.tolist() == [[127 - 5], [127 + 3]]
    np.testing.assert_array_equal(mxfp4.decode(blocks, scales), weight)


def test_the_first_of_two_values_lies_in_the_low_half() -> None:
    weight = np.zeros(32, dtype=np.float32)
    weight[0], weight[1] = 6.0, -1.0
    blocks, scales = mxfp4.encode(weight)
    assert scales.tolist() == [127]
    assert blocks[0, 0] == 0b1010_0111


def test_the_error_is_at_most_half_a_step() -> None:
    weight = np.random.default_rng(3).normal(size=(8, 4, 64)).astype(np.float32)
    rounded = mxfp4.decode(*mxfp4.encode(weight))
    largest = np.abs(weight.reshape(8, 4, 2, 32)).max(-1, keepdims=True)
    error = np.abs((weight - rounded).reshape(8, 4, 2, 32))
    assert (error <= largest / 4).all()


def test_a_block_of_zeros_stays_zero() -> None:
    weight = np.zeros((1, 32), dtype=np.float32)
    assert not mxfp4.decode(*mxfp4.encode(weight)).any()


def test_training_rounds_exactly_like_the_file() -> None:
    weight = torch.randn(5, 96, generator=torch.Generator().manual_seed(1)) * 0.3
    written = mxfp4.decode(*mxfp4.encode(weight.numpy()))
    np.testing.assert_allclose(fake_mxfp4(weight).numpy(), written, rtol=0, atol=1e-7)


def test_rounding_passes_the_gradient_on() -> None:
    weight = torch.randn(2, 32, requires_grad=True)
    (fake_mxfp4(weight) * 3).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.full((2, 32), 3.0))

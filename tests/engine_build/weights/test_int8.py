from __future__ import annotations

import numpy as np
import pytest
import torch

from engine_build.weights import int8


def test_bfloat16_is_widened_exactly() -> None:
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    raw = weight.view(torch.uint8).numpy().reshape(3, 5, 2)
    assert np.array_equal(int8.widen(raw), weight.float().numpy())


def test_no_weight_is_off_by_more_than_half_a_step() -> None:
    weight = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    weight[3] = 0
    weight[5] *= 1e-30
    scales = int8.row_scales(weight)
    codes, proof = int8.convert(weight, scales)
    errors = np.abs(codes * scales[:, None] - weight)
    largest = np.abs(weight).max(-1)
    assert (errors.max(-1) <= largest / 254 * (1 + 1e-5)).all()
    assert np.abs(codes).max(-1)[largest > 0].min() == 127
    assert not codes[3].any()
    assert proof.weights == weight.size
    kept = largest > 0
    assert proof.largest_row_error == pytest.approx(
        float((errors.max(-1)[kept] / largest[kept]).max()), rel=1e-4
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    weight = np.ones((2, 4), np.float32)
    weight[1, 2] = value
    with pytest.raises(ValueError, match="not a finite number"):
        int8.row_scales(weight)

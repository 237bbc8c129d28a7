from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from serving.engines.embedded.linear import Linear, fast_dtype, packs

CPU = torch.device("cpu")


def weights(out: int, size: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(out)
    weight = torch.randn((out, size), generator=random) * size**-0.5
    return weight.to(dtype), torch.randn(out, generator=random).to(dtype)


@pytest.mark.parametrize("bias", [True, False])
def test_plain_layer_is_the_product(bias: bool) -> None:
    weight, added = weights(24, 16, torch.float32)
    x = torch.randn((5, 16), generator=torch.Generator().manual_seed(1))
    layer = Linear(weight, added if bias else None, packed=False)
    expected = x @ weight.T + (added if bias else 0.0)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_packed_layer_agrees_with_the_plain_one_row_by_row(dtype: torch.dtype) -> None:
    packed = packs(CPU, dtype)
    for out, size in ((768, 256), (8, 64), (1000, 128)):
        weight, bias = weights(out, size, dtype)
        x = torch.randn((33, size), generator=torch.Generator().manual_seed(2)).to(dtype)
        layer = Linear(weight, bias, packed=packed)
        batch = layer(x)
        torch.testing.assert_close(batch, F.linear(x, weight, bias), rtol=2e-2, atol=2e-2)
        for rows in (1, 2, 7, 16):
            alone = layer(x[:rows].contiguous())
            torch.testing.assert_close(alone, batch[:rows], rtol=2e-2, atol=2e-2)
            assert torch.equal(alone, batch[:rows]) or not packed


def test_packing_is_refused_on_another_device() -> None:
    assert not packs(torch.device("meta"), torch.bfloat16)


def test_fast_dtype_is_one_of_the_two() -> None:
    assert fast_dtype(CPU) in (torch.bfloat16, torch.float32)
    assert fast_dtype(torch.device("cuda")) == torch.bfloat16

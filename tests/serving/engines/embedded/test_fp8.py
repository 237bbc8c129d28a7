from __future__ import annotations

import torch

from serving.engines.embedded.fp8 import TILE, dequantise, tiles


def test_every_weight_has_the_scale_of_its_tile() -> None:
    random = torch.Generator().manual_seed(0)
    codes = torch.randn((2, 130, 300), generator=random).to(torch.float8_e4m3fn)
    scales = torch.randn((2, *tiles(130, 300)), generator=random)
    assert scales.shape == (2, 2, 3)
    found = dequantise(codes, scales, torch.float32)
    for expert, row, column in ((0, 0, 0), (1, 127, 128), (1, 128, 127), (0, 129, 299)):
        expected = float(codes[expert, row, column]) * scales[expert, row // TILE, column // TILE]
        assert found[expert, row, column] == expected


def test_powers_of_two_are_exact_in_bfloat16() -> None:
    """All codes of two significant bits, which is what is made of MXFP4."""
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn)
    codes = codes[torch.frexp(codes.float())[0] * 4 % 1 == 0].view(1, 1, -1)
    for exponent in (-100, -7, 0, 60):
        scales = torch.full((1, 1, 1), 2.0**exponent)
        exact = codes.double() * 2.0**exponent
        assert torch.equal(dequantise(codes, scales, torch.bfloat16).double(), exact)

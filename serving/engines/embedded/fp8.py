"""Experts in FP8 (E4M3) with one scale for a tile of 128 rows by 128 columns.

Made from MXFP4, as the engine build makes them, a weight has two significant bits and its scale is
a power of two: the product is exact in bfloat16.
"""

from __future__ import annotations

import torch

TILE = 128


def tiles(rows: int, columns: int) -> tuple[int, int]:
    """Returns how many tiles cover a matrix, down and across."""
    return -(-rows // TILE), -(-columns // TILE)


def dequantise(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns the weights (experts, rows, columns), multiplied in float32 and rounded to `dtype`.

    `codes` (experts, rows, columns) float8_e4m3fn and `scales` (experts, *tiles) float32. Works
    through the experts one at a time, so that the working memory is that of one.
    """
    out = torch.empty(codes.shape, dtype=dtype)
    rows, columns = codes.shape[1:]
    for expert in range(len(codes)):
        spread = scales[expert].repeat_interleave(TILE, 0)[:rows]
        spread = spread.repeat_interleave(TILE, 1)[:, :columns]
        out[expert] = codes[expert].to(torch.float32) * spread
    return out

"""Matrices in INT8 with one scale a row: a weight is its code times its row's scale.

Codes are from -127 to 127, so their magnitudes have seven bits, and bfloat16 holds each exactly.
"""

from __future__ import annotations

import torch

LARGEST = 127


def dequantise(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Returns the weights (rows, columns) in float32.

    `codes` (rows, columns) int8 and `scales` (rows,) float32.
    """
    return codes * scales.unsqueeze(-1)

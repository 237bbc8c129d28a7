"""Matrices in INT8 with one scale a row: a weight is its code times its row's scale."""

from __future__ import annotations

import torch


def dequantise(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Returns the weights (rows, columns) in float32.

    `codes` (rows, columns) int8 and `scales` (rows,) float32.
    """
    return codes * scales.unsqueeze(-1)

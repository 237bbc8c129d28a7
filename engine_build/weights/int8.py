"""Matrices as INT8 with one scale a row: weights only, for products on a CPU.

A row's scale is its largest magnitude / 127, so the rounding error is at most half a step: 1/254
of the row's largest magnitude. Rows are output channels, so the scale can be applied to the
product.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

LARGEST = 127


class Int8Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What a conversion did. The error is of one weight, relative to the largest of its row."""

    weights: int = 0
    largest_row_error: float = 0.0

    def __add__(self, other: Int8Findings) -> Int8Findings:
        return Int8Findings(
            weights=self.weights + other.weights,
            largest_row_error=max(self.largest_row_error, other.largest_row_error),
        )


def widen(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns bfloat16 as float32: (..., 2) bytes give (...)."""
    halves = np.ascontiguousarray(raw).view("<u2")[..., 0]
    return (halves.astype(np.uint32) << 16).view(np.float32)


def row_scales(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns (rows,); 1 for a row of zeros. Raises ValueError for what is not a finite number."""
    largest = np.abs(weight).max(-1)
    if not np.isfinite(largest).all():
        raise ValueError("a weight is not a finite number")
    return np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)


def convert(
    weight: NDArray[np.float32], scales: NDArray[np.float32]
) -> tuple[NDArray[np.int8], Int8Findings]:
    """Returns (rows, columns) and the findings; `scales` from `row_scales` of the same weight."""
    levels = np.rint(weight / scales[:, None])
    # Division may round a row's largest just past 127.
    codes = np.clip(levels, -LARGEST, LARGEST).astype(np.int8)
    error = np.abs(codes * scales[:, None] - weight).max(-1) / (LARGEST * scales)
    return codes, Int8Findings(weights=weight.size, largest_row_error=float(error.max(initial=0.0)))

"""MXFP4 as in the OCP Microscaling specification 1.0: blocks of 32 four-bit floats and one scale.

A value is E2M1; the scale is a power of two stored as exponent + 127. Two values share a byte, the
first in the low half, as in the published GPT-OSS checkpoints.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
LEVELS = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], dtype=np.float32)
SMALLEST = np.float32(2.0**-100)
SIGN = 8


def encode(weight: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Returns (blocks [..., n, 16], scales [..., n]) for a weight [..., n * 32].

    The scale is 2 ** (floor(log2(largest)) - 2); a value halfway between two levels takes the
    smaller one.
    """
    parts = weight.reshape(*weight.shape[:-1], -1, BLOCK)
    largest = np.maximum(np.abs(parts).max(-1), SMALLEST)
    exponents = np.frexp(largest)[1] - 3
    scaled = np.ldexp(parts, -exponents[..., None])
    middles = (LEVELS[1:] + LEVELS[:-1]) / 2
    codes = np.searchsorted(middles, np.abs(scaled), side="left").astype(np.uint8)
    codes |= np.where(scaled < 0, SIGN, 0).astype(np.uint8)
    blocks = codes[..., ::2] | (codes[..., 1::2] << 4)
    return blocks, (exponents + 127).astype(np.uint8)


def decode(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the weight [..., n * 32] of blocks [..., n, 16] and scales [..., n]."""
    codes = np.stack((blocks & 15, blocks >> 4), axis=-1).reshape(*blocks.shape[:-1], BLOCK)
    values = LEVELS[codes & 7] * np.where(codes & SIGN, np.float32(-1), np.float32(1))
    scaled = np.ldexp(values, scales.astype(np.int32)[..., None] - 127)
    weight: NDArray[np.float32] = scaled.reshape(*blocks.shape[:-2], -1).astype(np.float32)
    return weight

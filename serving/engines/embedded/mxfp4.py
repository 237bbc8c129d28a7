"""MXFP4: 4-bit floats (E2M1) in blocks of 32 that share a power-of-two scale (E8M0).

Format: OCP Microscaling Formats (MX) 1.0; layout of GPT-OSS checkpoints: 16 bytes hold the 32
values of a block, low nibble first; the scale byte is the exponent plus 127.
"""

from __future__ import annotations

import torch

BLOCK_VALUES = 32
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SCALE_BIAS = 127


def dequantise(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns the values, exact in bfloat16 and float32 within their exponent range.

    `blocks` (..., n, 16) uint8 and `scales` (..., n) uint8 give (..., n * 32). Works through the
    leading dimension one slice at a time, so that the working memory is that of one expert.
    """
    out = torch.empty((*blocks.shape[:-2], blocks.shape[-2] * BLOCK_VALUES), dtype=dtype)
    values = torch.tensor([*MAGNITUDES, *(-value for value in MAGNITUDES)], dtype=dtype)
    # Both nibbles of a byte in one look-up: row b is (value of the low one, of the high one).
    byte = torch.arange(256)
    pairs = torch.stack((values[byte & 15], values[byte >> 4]), dim=-1)
    for index in range(blocks.shape[0]):
        decoded = pairs[blocks[index].long()].flatten(-2)
        exponents = scales[index].to(torch.int32).unsqueeze(-1) - SCALE_BIAS
        torch.ldexp(decoded, exponents, out=out[index].view(decoded.shape))
    return out

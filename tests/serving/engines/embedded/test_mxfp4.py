from __future__ import annotations

import torch

from serving.engines.embedded.mxfp4 import BLOCK_VALUES, dequantise

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def by_the_format(byte: int, scale: int) -> tuple[float, float]:
    """The two values of a byte: low nibble first, sign in its highest bit."""
    low, high = (
        (-1.0 if nibble & 8 else 1.0) * MAGNITUDES[nibble & 7] * 2.0 ** (scale - 127)
        for nibble in (byte & 15, byte >> 4)
    )
    return low, high


def test_every_byte_and_scale_is_decoded_exactly() -> None:
    scales = torch.arange(7, 247, dtype=torch.uint8)
    every_byte = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    for dtype in (torch.float32, torch.bfloat16):
        for scale in scales.tolist():
            held = torch.full((1, 16), scale, dtype=torch.uint8)
            decoded = dequantise(every_byte, held, dtype).view(-1, 2)
            expected = [by_the_format(byte, scale) for byte in range(256)]
            assert decoded.dtype == dtype
            assert torch.equal(decoded.double(), torch.tensor(expected, dtype=torch.float64))


def test_blocks_keep_their_place() -> None:
    random = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (3, 5, 2, 16), generator=random, dtype=torch.uint8)
    scales = torch.randint(120, 130, (3, 5, 2), generator=random, dtype=torch.uint8)
    decoded = dequantise(blocks, scales, torch.float32)
    assert decoded.shape == (3, 5, 2 * BLOCK_VALUES)
    low, high = by_the_format(int(blocks[2, 4, 1, 15]), int(scales[2, 4, 1]))
    assert decoded[2, 4, -2:].tolist() == [low, high]

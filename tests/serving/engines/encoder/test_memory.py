"""The encoder process's memory, whatever lengths its texts have."""

from __future__ import annotations

import psutil

from serving.boundary.encoder.client import Encoder
from serving.boundary.encoder.description import EncoderDescription

MOST_GROWTH_BYTES = 40_000_000
"""Fifty new lengths took a hundred megabytes when each was computed as it came."""


async def test_new_lengths_take_no_more_memory(minilm: EncoderDescription) -> None:
    encoder = Encoder(
        minilm,
        threads=1,
        batch_tokens=2048,
        request_tokens=2048,
        max_waiting=1,
        clock=lambda: 0.0,
        on_failure=lambda why: None,
    )
    try:
        for length in range(1, 255, 5):
            await encoder.encode([[7592] * length], dimensions=384)
        assert encoder.pid is not None
        process = psutil.Process(encoder.pid)
        before = process.memory_info().rss
        for length in range(3, 255, 5):
            await encoder.encode([[7592] * length], dimensions=384)
        assert process.memory_info().rss - before < MOST_GROWTH_BYTES
    finally:
        await encoder.close()

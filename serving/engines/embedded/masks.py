"""Putting a grammar's bit mask on a row of logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.engines.embedded.candidates import Floats

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_BOUNDS: Floats = np.where(_BITS == 1, np.inf, -np.inf).astype(np.float32)
"""(256, 8): what eight logits may be at most, by the byte of their eight bits."""


class MaskApplier:
    """Forbids tokens of one row at a time; keeps the memory that it needs for it.

    Every logit is taken at most at its bound, which is infinite one way or the other: the same
    work for every mask, where a choice per token costs fifty times as much for some of them.
    """

    def __init__(self, vocab_size: int) -> None:
        self._bounds: Floats = np.empty((-(-vocab_size // 32) * 4, 8), dtype=np.float32)

    def apply(self, mask: NDArray[np.int32], scores: Floats) -> None:
        """Sets `scores`, (vocab,), to minus infinity where the mask has no bit; NaN stays."""
        octets = mask.view(np.uint8)
        # Every byte is an index of the table: clipping only spares a check.
        bounds = self._bounds[: len(octets)]
        np.take(_BOUNDS, octets, axis=0, out=bounds, mode="clip")
        np.minimum(scores, bounds.reshape(-1)[: scores.size], out=scores)

"""The forward pass in C, behind the same interface as the one in torch's operators."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from serving.engines.embedded.forward_pass import scratch_spans
from serving.engines.embedded.native.library import CSpan, CStep
from serving.engines.embedded.native.model import DTYPE, NativeModel
from serving.engines.embedded.native.panels import PANEL
from serving.engines.embedded.plan import Span


class NativePass:
    """See `serving.engines.embedded.forward_pass.ForwardPass`.

    A layer's keys and its values are (blocks, kv heads * block_tokens * head_dim) each; attention.h
    says how a block is laid out.
    """

    def __init__(self, model: NativeModel, full_blocks: int, sliding_blocks: int) -> None:
        self.model = model
        config = model.config
        self._width = -(-config.vocab_size // PANEL) * PANEL
        row = config.num_kv_heads * model.sizes.block_tokens * config.head_dim
        self._sliding = config.sliding
        # Zeros that are pages untouched until they are written.
        self._caches = [
            np.zeros((2, sliding_blocks if sliding else full_blocks, row), np.uint16)
            for sliding in config.sliding
        ]
        for layer, cache in zip(model.layers, self._caches, strict=True):
            layer.cache.keys, layer.cache.values = (_address(side) for side in cache)
        self._room = torch.empty(0, dtype=torch.uint8)
        self._roomy = (0, 0)
        # One for all steps: fresh memory costs a step of 16 rows a twentieth of its time.
        self._logits = torch.empty((0, self._width), dtype=DTYPE)

    def run(self, spans: Sequence[Span]) -> tuple[list[int], torch.Tensor]:
        """As `ForwardPass`; the order is the given one."""
        model = self.model
        sampled = sum(span.samples for span in spans)
        threads = torch.get_num_threads()
        self._reserve(sum(len(span.tokens) for span in spans), sampled, threads)
        rows = _Rows(spans)
        step = CStep(
            model=ctypes.pointer(model.structs),
            spans=_address(rows.spans),
            span_count=len(spans),
            logits=self._logits.data_ptr(),
            room=self._room.data_ptr(),
            threads=threads,
        )
        model.library.forward(step)
        logits = self._logits[:sampled, : model.config.vocab_size]
        return list(range(len(spans))), logits

    def warm_up(self) -> None:
        """Runs a chunk and a decode."""
        sizes = self.model.sizes
        for span in scratch_spans(sizes.tile_rows + 1, sizes.block_tokens):
            self.run([span])

    def clear(self, full: Sequence[int], sliding: Sequence[int]) -> None:
        """As `ForwardPass`."""
        for is_sliding, cache in zip(self._sliding, self._caches, strict=True):
            cache[:, list(sliding if is_sliding else full)] = 0

    def _reserve(self, tokens: int, sampled: int, threads: int) -> None:
        """Makes room for a step of so many tokens and rows of logits, on so many threads."""
        if sampled > len(self._logits):
            self._logits = torch.empty((sampled, self._width), dtype=DTYPE)
        if tokens > self._roomy[0] or threads > self._roomy[1]:
            self._roomy = max(tokens, self._roomy[0]), max(threads, self._roomy[1])
            size = self.model.library.room_bytes(self.model.structs, *self._roomy)
            self._room = torch.empty(size, dtype=torch.uint8)


class _Rows:
    """The C structs of spans, which are good as long as this object.

    Tokens and tables are copied side by side, because asking numpy for an address costs more than
    all else that is done for a span here.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self._arrays = [
            np.concatenate(parts)
            for parts in zip(
                *((span.tokens, span.full_table, span.sliding_table) for span in spans), strict=True
            )
        ]
        places = np.array(
            [(len(span.tokens), len(span.full_table), len(span.sliding_table)) for span in spans]
        )
        starts = np.array([_address(array) for array in self._arrays])
        self.spans: NDArray[np.int64] = np.empty((len(spans), len(CSpan._fields_)), np.int64)
        self.spans[:, :3] = starts + (places.cumsum(axis=0) - places) * np.int64().itemsize
        self.spans[:, 3:] = [
            (span.start, len(span.tokens), span.kept, span.samples) for span in spans
        ]


def _address(array: NDArray[np.generic]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address

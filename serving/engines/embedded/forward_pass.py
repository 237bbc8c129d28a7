"""What computes the tokens of a step, and remembers their keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from serving.engines.embedded.attention import Geometry
from serving.engines.embedded.checkpoint import ModelConfig
from serving.engines.embedded.graphs import DecodeGraphs
from serving.engines.embedded.kv_store import KvStore
from serving.engines.embedded.model import Model
from serving.engines.embedded.plan import Planner, Span


class Described(Protocol):
    """The facts of a loaded model."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def sizes(self) -> Geometry: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...


class ForwardPass(Protocol):
    """A model and the memory of its cache."""

    def run(self, spans: Sequence[Span]) -> tuple[list[int], torch.Tensor]:
        """Computes spans, and returns their order and the logits (sampled spans, vocab) in it.

        The logits are good until the next run. Raises RuntimeError or MemoryError when the spans
        cannot be computed.
        """
        ...

    def warm_up(self) -> None:
        """Runs on scratch blocks what the first request would otherwise wait for."""
        ...

    def clear(self, full: Sequence[int], sliding: Sequence[int]) -> None:
        """Zeroes blocks in every layer, so that what a broken sequence left reaches no other."""
        ...


class TorchPass:
    """The pass in torch's operators, on any device. Decode batches of the given sizes are padded
    up to the next, as CUDA graphs need it."""

    def __init__(
        self, model: Model, full_blocks: int, sliding_blocks: int, batch_sizes: tuple[int, ...]
    ) -> None:
        self._model = model
        self._store = KvStore(
            tuple(sliding_blocks if sliding else full_blocks for sliding in model.config.sliding),
            model.sizes,
            model.dtype,
            model.device,
        )
        self._planner = Planner(model.sizes, full_blocks, sliding_blocks, model.dtype, model.device)
        self._graphs = DecodeGraphs(
            model, self._store, self._planner, batch_sizes, most_blocks=full_blocks
        )

    def run(self, spans: Sequence[Span]) -> tuple[list[int], torch.Tensor]:
        """As `ForwardPass`: short contexts first, then chunks."""
        order = self._planner.order(spans)
        ordered = [spans[index] for index in order]
        logits = self._graphs.run(ordered)
        if logits is None:
            logits = self._model.forward(self._planner.plan(ordered), self._store)
        return order, logits

    def warm_up(self) -> None:
        """Runs a chunk and a decode, and captures the graphs of short contexts."""
        sizes = self._model.sizes
        for span in scratch_spans(sizes.tile_rows + 1, sizes.block_tokens):
            self._model.forward(self._planner.plan([span]), self._store)
        self._graphs.capture()

    def clear(self, full: Sequence[int], sliding: Sequence[int]) -> None:
        """As `ForwardPass`."""
        for index, is_sliding in enumerate(self._model.config.sliding):
            self._store.clear(index, sliding if is_sliding else full)


def scratch_spans(tokens: int, block_tokens: int) -> list[Span]:
    """Returns a chunk of so many tokens and a decode, all on the trash block."""
    ids = np.zeros(tokens, dtype=np.int64)
    table = np.ones(tokens // block_tokens + 1, dtype=np.int64)
    return [Span(ids[:count], 0, table, table, samples=True) for count in (tokens, 1)]

"""Runs the work of one step: plan, forward pass, logits. Owns the cache and its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from serving.engine import KvCache, Limits
from serving.runtime.embedded.blocks import RESERVED_BLOCKS
from serving.runtime.embedded.cache import Cache
from serving.runtime.embedded.capacity import Capacity, capacity
from serving.runtime.embedded.graphs import DecodeGraphs
from serving.runtime.embedded.kv_store import KvStore
from serving.runtime.embedded.model import Model
from serving.runtime.embedded.plan import Planner, Span
from serving.runtime.embedded.scheduler import Work
from serving.runtime.embedded.sequence import Sequence as Running
from serving.runtime.messages import Fault


@dataclass(frozen=True, slots=True)
class Done:
    """What ran. `logits` (sampled, vocab) has a row for each sequence of `sampled`."""

    work: list[Work]
    sampled: list[Running]
    logits: torch.Tensor


class Executor:
    """One model with its cache."""

    def __init__(
        self, model: Model, limits: Limits, kv_cache: KvCache, graph_batch_sizes: tuple[int, ...]
    ) -> None:
        self._model = model
        sizes: Capacity = capacity(model, limits, kv_cache)
        self.longest_tokens = sizes.full_blocks * kv_cache.block_tokens
        self.cache = Cache(
            sizes.full_blocks,
            sizes.sliding_blocks,
            kv_cache.block_tokens,
            model.config.sliding_window,
            reuse=kv_cache.block_reuse,
        )
        full = sizes.full_blocks + RESERVED_BLOCKS
        sliding = sizes.sliding_blocks + RESERVED_BLOCKS
        self._store = KvStore(
            tuple(sliding if is_sliding else full for is_sliding in model.config.sliding),
            model.sizes,
            model.dtype,
            model.device,
        )
        self._planner = Planner(model.sizes, full, sliding, model.dtype, model.device)
        self._graphs = DecodeGraphs(model, self._store, self._planner, graph_batch_sizes)

    def run(self, work: Sequence[Work]) -> tuple[Done, list[tuple[Running, Fault]]]:
        """Computes the work. When that fails, each item is tried alone, so that only the
        sequences that cannot be computed are lost."""
        try:
            return self._run(work), []
        except (RuntimeError, MemoryError) as error:
            if len(work) == 1:
                return self._nothing(), [(work[0].sequence, fault(error))]
        parts = [self.run([item]) for item in work]
        done = Done(
            work=[item for part, _ in parts for item in part.work],
            sampled=[sequence for part, _ in parts for sequence in part.sampled],
            logits=torch.cat([part.logits for part, _ in parts]),
        )
        return done, [failure for _, failures in parts for failure in failures]

    def warm_up(self) -> None:
        """Runs a decode and a chunk on scratch blocks, so that the first request is not slower."""
        tokens = np.zeros(self._model.sizes.tile_rows + 1, dtype=np.int64)
        table = np.ones(len(tokens) // self.cache.block_tokens + 1, dtype=np.int64)
        with torch.inference_mode():
            for count in (len(tokens), 1):
                span = Span(tokens[:count], 0, table, table, samples=True)
                self._model.forward(self._planner.plan([span]), self._store)
            self._graphs.capture()

    def clear(self, blocks: tuple[list[int], list[int]]) -> None:
        """Zeroes (full, sliding) blocks in every layer."""
        full, sliding = blocks
        for index, is_sliding in enumerate(self._model.config.sliding):
            self._store.clear(index, sliding if is_sliding else full)

    def _run(self, work: Sequence[Work]) -> Done:
        spans = [span(item) for item in work]
        order = self._planner.order(spans)
        spans = [spans[index] for index in order]
        logits = self._graphs.run(spans)
        if logits is None:
            logits = self._model.forward(self._planner.plan(spans), self._store)
        sampled = [work[index].sequence for index in order if work[index].samples]
        return Done(list(work), sampled, logits)

    def _nothing(self) -> Done:
        empty = torch.empty((0, self._model.config.vocab_size), dtype=self._model.dtype)
        return Done([], [], empty.to(self._model.device))


def span(work: Work) -> Span:
    """Returns what the planner needs to know of a piece of work."""
    sequence = work.sequence
    return Span(
        tokens=sequence.span(work.count),
        start=sequence.computed,
        full_table=sequence.full_table,
        sliding_table=sequence.sliding_table,
        samples=work.samples,
        kept=sequence.kept_tokens,
    )


def fault(error: Exception) -> Fault:
    """Returns what the client is told. The message of the exception stays here."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return Fault("out_of_memory", "The engine ran out of memory.")
    if "memory" in str(error):  # the CPU allocator raises a plain RuntimeError
        return Fault("out_of_memory", "The engine ran out of memory.")
    return Fault("internal", "The engine could not compute this request.")

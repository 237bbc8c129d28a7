"""Decode steps of a fixed size: batches padded up to the next captured one.

On a GPU such a step is a CUDA graph: its kernels are recorded once and started together. Elsewhere
the same static buffers are filled and the forward pass runs on them as it is, which is how the
padding is tested. The capture itself has not yet run on a GPU.

A padding row decodes token 0 at position 0 and writes to the trash block; its logits are dropped.
"""

# torch.cuda.CUDAGraph and its stream context have no annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from serving.runtime.embedded.blocks import TRASH_BLOCK
from serving.runtime.embedded.kv_store import KvStore
from serving.runtime.embedded.model import Model
from serving.runtime.embedded.plan import Plan, Planner, Span

_TRASH = np.array([TRASH_BLOCK], dtype=np.int64)
PADDING = Span(np.zeros(1, dtype=np.int64), 0, _TRASH, _TRASH, samples=True)


class DecodeGraph:
    """One captured size: `rows` sequences that read `blocks` blocks each in the full layers."""

    def __init__(self, model: Model, store: KvStore, plan: Plan) -> None:
        self._plan = plan
        self._forward = lambda: model.forward(plan, store)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: torch.Tensor | None = None
        if model.device.type == "cuda":
            self._capture()

    def replay(self, plan: Plan) -> torch.Tensor:
        """Returns logits (rows, vocab) for a plan of the captured size."""
        for static, fresh in zip(_tensors(self._plan), _tensors(plan), strict=True):
            static.copy_(fresh)
        if self._graph is None or self._logits is None:
            return self._forward()
        self._graph.replay()
        return self._logits

    def _capture(self) -> None:
        # A side stream and a first run, as capture requires: libraries allocate on first use.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._forward()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = self._forward()


class DecodeGraphs:
    """The graphs of one model by batch size and context, each made when first needed."""

    def __init__(
        self, model: Model, store: KvStore, planner: Planner, batch_sizes: tuple[int, ...]
    ) -> None:
        self._model = model
        self._store = store
        self._planner = planner
        self._batch_sizes = sorted(batch_sizes)
        self._graphs: dict[tuple[int, int], DecodeGraph] = {}

    def capture(self) -> None:
        """Makes the graph of every batch size for the shortest context."""
        for size in self._batch_sizes:
            self.run([PADDING] * size)

    def run(self, spans: Sequence[Span]) -> torch.Tensor | None:
        """Returns logits (len(spans), vocab), or None when the spans are no decode step that a
        captured size can take."""
        size = padded_size(len(spans), self._batch_sizes)
        if size is None or any(len(span.tokens) != 1 or not span.samples for span in spans):
            return None
        padded = [*spans, *[PADDING] * (size - len(spans))]
        blocks = max(map(self._planner.bucket, padded))
        plan = self._planner.decode(padded, blocks)
        graph = self._graphs.get((size, blocks))
        if graph is None:
            graph = self._graphs[size, blocks] = DecodeGraph(self._model, self._store, plan)
        return graph.replay(plan)[: len(spans)]


def padded_size(rows: int, sizes: Sequence[int]) -> int | None:
    """Returns the smallest of the ascending `sizes` that is at least `rows`, or None."""
    return next((size for size in sizes if size >= rows), None)


def _tensors(plan: Plan) -> list[torch.Tensor]:
    """The tensors of a decode plan, in one order."""
    groups = [*plan.full, *([plan.sliding] if plan.sliding else [])]
    inputs = [plan.tokens, plan.positions, plan.full_writes, plan.sliding_writes, plan.sampled]
    return inputs + [tensor for group in groups for tensor in (group.reads, group.mask)]

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

from serving.engines.embedded.blocks import TRASH_BLOCK
from serving.engines.embedded.kv_store import KvStore
from serving.engines.embedded.model import Model
from serving.engines.embedded.plan import Plan, Planner, Span

_TRASH = np.array([TRASH_BLOCK], dtype=np.int64)
PADDING = Span(np.zeros(1, dtype=np.int64), 0, _TRASH, _TRASH, samples=True)


class DecodeGraph:
    """One captured size: `rows` sequences that read `blocks` blocks each in the full layers."""

    def __init__(self, model: Model, store: KvStore, plan: Plan, memory: Memory | None) -> None:
        """With `memory` the step is captured, and its results stay there."""
        self._plan = plan
        self._forward = lambda: model.forward(plan, store)
        self._graph: torch.cuda.CUDAGraph | None = None
        if memory is not None:
            self._logits = memory.logits[: len(plan.sampled)]
            self._graph = self._capture(memory)

    def replay(self, plan: Plan) -> torch.Tensor:
        """Returns logits (rows, vocab) for a plan of the captured size, good until the next."""
        for static, fresh in zip(_tensors(self._plan), _tensors(plan), strict=True):
            static.copy_(fresh)
        if self._graph is None:
            return self._forward()
        self._graph.replay()
        return self._logits

    def _capture(self, memory: Memory) -> torch.cuda.CUDAGraph:
        # A side stream and a first run, as capture requires: libraries allocate on first use.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._forward()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=memory.pool):
            self._logits.copy_(self._forward())
        return graph


class Memory:
    """What the graphs of one model share, as only one of them runs at a time: the memory that they
    compute in, and the logits that they leave."""

    def __init__(self, model: Model, rows: int) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.logits = torch.empty(
            (rows, model.config.vocab_size), dtype=model.dtype, device=model.device
        )


class DecodeGraphs:
    """The graphs of one model by batch size and context, each made when first needed."""

    def __init__(
        self,
        model: Model,
        store: KvStore,
        planner: Planner,
        batch_sizes: tuple[int, ...],
        most_blocks: int,
    ) -> None:
        """A step that would read more than `most_blocks` blocks, padding included, is not padded:
        the pool's own number leaves out what pads many short contexts up to one long one."""
        self._model = model
        self._store = store
        self._planner = planner
        self._batch_sizes = sorted(batch_sizes)
        self._most_blocks = most_blocks
        self._memory: Memory | None = None
        if batch_sizes and can_capture(model.device, model.dtype):
            self._memory = Memory(model, max(batch_sizes))
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
        if size * blocks > self._most_blocks:
            return None
        plan = self._planner.decode(padded, blocks)
        graph = self._graphs.get((size, blocks))
        if graph is None:
            graph = DecodeGraph(self._model, self._store, plan, self._memory)
            self._graphs[size, blocks] = graph
        return graph.replay(plan)[: len(spans)]


def can_capture(device: torch.device, dtype: torch.dtype) -> bool:
    """True on GPUs whose grouped products stay on the device: torch has them for Hopper and for
    data-centre Blackwell, in bfloat16; elsewhere it asks the host for each group's bounds."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return False
    return torch.cuda.get_device_capability(device)[0] in (9, 10)


def padded_size(rows: int, sizes: Sequence[int]) -> int | None:
    """Returns the smallest of the ascending `sizes` that is at least `rows`, or None."""
    return next((size for size in sizes if size >= rows), None)


def _tensors(plan: Plan) -> list[torch.Tensor]:
    """The tensors of a decode plan, in one order."""
    groups = [*plan.full, *([plan.sliding] if plan.sliding else [])]
    inputs = [plan.tokens, plan.positions, plan.full_writes, plan.sliding_writes, plan.sampled]
    return inputs + [tensor for group in groups for tensor in (group.reads, group.mask)]

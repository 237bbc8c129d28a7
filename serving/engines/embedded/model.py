"""The GPT-OSS transformer: one forward pass over a packed batch of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from serving.engines.embedded import attention, flash
from serving.engines.embedded.attention import Geometry
from serving.engines.embedded.checkpoint import ModelConfig
from serving.engines.embedded.experts import Experts
from serving.engines.embedded.kv_store import KvStore
from serving.engines.embedded.linear import Linear
from serving.engines.embedded.plan import Chunk, Plan
from serving.engines.embedded.rope import Rotary, rotate

# Up to so many tokens the products of one layer are too small to share: a second thread gains
# nothing on an idle machine, and on a busy one every product would wait for it to be scheduled.
SOLO_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Norm:
    """RMSNorm over the last dimension, computed in float32.

    `weight` (hidden,) comes multiplied by sqrt(hidden) and `floor` is sqrt(hidden * eps), so that
    x / sqrt(mean(x^2) + eps) is x * sqrt(hidden) / hypot(|x|, floor).
    """

    weight: torch.Tensor
    floor: torch.Tensor

    def __call__(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Returns (tokens, hidden) in `dtype` for float32 (tokens, hidden)."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return torch.div(x, length.hypot_(self.floor)).mul_(self.weight).to(dtype)


def norm(weight: torch.Tensor, eps: float, device: torch.device) -> Norm:
    """Returns the norm for a checkpoint's weight (hidden,)."""
    hidden = weight.shape[0]
    scaled = weight.to(device, torch.float32) * math.sqrt(hidden)
    return Norm(scaled, torch.tensor(math.sqrt(hidden * eps), device=device))


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. `sink` is from `attention.sink_columns`."""

    sliding: bool
    attention_norm: Norm
    qkv: Linear
    out: Linear
    sink: torch.Tensor
    experts_norm: Norm
    experts: Experts


@dataclass(frozen=True, slots=True)
class Model:
    """The weights of a GPT-OSS model, ready to run on one device in one dtype."""

    config: ModelConfig
    sizes: Geometry
    embedding: torch.Tensor  # (vocab, hidden)
    layers: tuple[Layer, ...]
    final_norm: Norm
    head: Linear
    rotary: Rotary
    causal: torch.Tensor
    dtype: torch.dtype
    device: torch.device

    def forward(self, plan: Plan, store: KvStore) -> torch.Tensor:
        """Returns logits (sampled rows, vocab); writes the keys and values of every token."""
        with one_thread(len(plan.tokens) <= SOLO_TOKENS):
            last = self._body(plan, store)
        return self.head(self.final_norm(last, self.dtype))

    def _body(self, plan: Plan, store: KvStore) -> torch.Tensor:
        """Returns the residual stream (sampled rows, hidden) after the last layer."""
        # The residual stream stays in float32.
        hidden = F.embedding(plan.tokens, self.embedding).to(torch.float32)
        factors = self.rotary.factors(plan.positions)
        for index, layer in enumerate(self.layers):
            x = layer.attention_norm(hidden, self.dtype)
            queries = self._project(index, layer, x, factors, plan, store)
            last = index == len(self.layers) - 1
            if last and not len(plan.sampled):
                break
            hidden += layer.out(self._mix(index, layer, queries, plan, store))
            if last:  # of the others only the keys and values were wanted
                hidden = hidden.index_select(0, plan.sampled)
            hidden += layer.experts(layer.experts_norm(hidden, self.dtype))
        return hidden[: len(plan.sampled)]

    def _project(
        self,
        index: int,
        layer: Layer,
        x: torch.Tensor,
        factors: torch.Tensor,
        plan: Plan,
        store: KvStore,
    ) -> torch.Tensor:
        """Stores keys and values of (tokens, hidden) and returns the queries (tokens, width)."""
        sizes = self.sizes
        states = layer.qkv(x)
        q_width = self.config.num_heads * sizes.head_dim
        turned = (self.config.num_heads + sizes.num_kv_heads) * sizes.head_dim
        both = states[:, :turned].view(x.shape[0], -1, sizes.head_dim)
        both.copy_(rotate(both, factors))
        writes = plan.sliding_writes if layer.sliding else plan.full_writes
        store.write(index, states[:, q_width:], writes)
        return states[:, :q_width]

    def _mix(
        self, index: int, layer: Layer, queries: torch.Tensor, plan: Plan, store: KvStore
    ) -> torch.Tensor:
        """Returns the heads' outputs (tokens, query heads * head_dim)."""
        sizes = self.sizes
        parts: list[torch.Tensor] = []
        groups = plan.full if not layer.sliding else (plan.sliding,) if plan.sliding else ()
        for group in groups:
            count = group.rows.stop - group.rows.start
            keys, values = store.read(index, group.reads, count)
            rows = attention.by_kv_head(queries[group.rows], sizes)
            tiles = rows.view(-1, sizes.group, sizes.head_dim)
            mixed = attention.attend(tiles, keys, values, layer.sink, group.mask, sizes)
            parts.append(attention.by_token(mixed, sizes))
        for chunk in plan.chunks:
            parts.append(self._chunk(index, layer, queries[chunk.rows], chunk, store))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _chunk(
        self, index: int, layer: Layer, queries: torch.Tensor, chunk: Chunk, store: KvStore
    ) -> torch.Tensor:
        if self.device.type == "cuda" and not layer.sliding:
            return self._flash_chunk(index, layer, queries, chunk, store)
        sizes = self.sizes
        height = sizes.tile_rows * sizes.group
        rows = attention.by_kv_head(queries, sizes)
        top = chunk.lead_rows * sizes.group
        tiles = rows.new_zeros((sizes.num_kv_heads, chunk.tiles * height, sizes.head_dim))
        tiles[:, top : top + rows.shape[1]] = rows
        if layer.sliding:
            keys, values = store.read(index, chunk.sliding_reads, chunk.tiles)
            mixed = attention.attend(
                tiles.view(-1, height, sizes.head_dim),
                keys,
                values,
                layer.sink,
                chunk.sliding_mask,
                sizes,
            ).view_as(tiles)
        else:
            keys, values = store.read(index, chunk.full_reads, 1)
            mixed = attention.prefill(
                tiles, keys, values, layer.sink, self.causal, chunk.first_tile, sizes
            )
        return attention.by_token(mixed[:, top : top + rows.shape[1]], sizes)

    def _flash_chunk(
        self, index: int, layer: Layer, queries: torch.Tensor, chunk: Chunk, store: KvStore
    ) -> torch.Tensor:
        tokens, width = queries.shape
        sizes = self.sizes
        keys, values = store.read(index, chunk.full_reads, 1)
        first = sizes.block_tokens  # after the null block
        past = chunk.first_tile * sizes.tile_rows + chunk.lead_rows
        seen = slice(first, first + past + tokens)
        heads = queries.view(tokens, -1, sizes.head_dim).transpose(0, 1)
        sinks = layer.sink[..., 0].flatten()
        mixed = flash.attend_chunk(heads, keys[:, seen], values[:, seen], sinks)
        return mixed.transpose(0, 1).reshape(tokens, width)


@contextmanager
def one_thread(wanted: bool) -> Iterator[None]:
    """Runs torch's CPU operators on the calling thread alone while the context lasts."""
    before = torch.get_num_threads()
    if not wanted or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

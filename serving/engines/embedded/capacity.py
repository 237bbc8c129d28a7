"""How many cache blocks there are. Loads torch only where a GPU is asked: a build plans with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.boundary.engine import KvCache, Limits

if TYPE_CHECKING:
    from serving.engines.embedded.forward_pass import Described


@dataclass(frozen=True, slots=True)
class Capacity:
    """Blocks of each full layer and of each sliding layer."""

    full_blocks: int
    sliding_blocks: int


def capacity(model: Described, limits: Limits, kv_cache: KvCache) -> Capacity:
    """Returns the pool sizes for `kv_cache`.

    `max_tokens` counts tokens of the full layers. Without it, it is what fits the given fraction
    of a GPU's free memory, or on a CPU two sequences of the greatest length.
    """
    tokens = kv_cache.max_tokens or 2 * limits.max_seq_len
    if kv_cache.max_tokens is None and model.device.type == "cuda":
        import torch

        free_bytes, _ = torch.cuda.mem_get_info(model.device)
        fraction = kv_cache.free_memory_fraction or 0.8
        tokens = int(free_bytes * fraction) // token_bytes(model)
    return pools(tokens, limits, kv_cache.block_tokens, model.sizes.lead_blocks)


def pools(tokens: int, limits: Limits, block_tokens: int, lead_blocks: int) -> Capacity:
    """Returns the pool sizes for so many tokens in the full layers.

    The sliding layers get what a full batch and one step can hold of windows, each of which begins
    `lead_blocks` before its token, and beyond that half the blocks of the full layers, for reuse.
    """
    window = lead_blocks + 2
    least = limits.max_batch_size * window + -(-limits.max_num_tokens // block_tokens)
    full = max(tokens // block_tokens, 1)
    return Capacity(full, min(full, max(least, full // 2)))


def token_bytes(model: Described) -> int:
    """Returns the bytes of keys and values of one token in all layers."""
    config = model.config
    return config.num_layers * 2 * config.num_kv_heads * config.head_dim * model.dtype.itemsize

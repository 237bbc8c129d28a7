"""The memory of keys and values: one tensor a layer, cut into blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from serving.engines.embedded.attention import Geometry


class KvStore:
    """Keys and values of all layers. A layer's tensor is (2 * kv heads * blocks, block row).

    Row (side * kv_heads + head) * blocks + block holds `block_tokens` vectors of `head_dim`, side
    0 keys and 1 values: a block of one head is one contiguous copy. Starts as zeros, so a masked
    column always holds a number; the pages are only taken when first written.
    """

    def __init__(
        self,
        blocks_per_layer: tuple[int, ...],
        sizes: Geometry,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._sizes = sizes
        self._row = row = sizes.block_tokens * sizes.head_dim
        self._layers = [
            _zeros((2 * sizes.num_kv_heads * blocks, row), dtype, device)
            for blocks in blocks_per_layer
        ]
        self._vectors = [layer.view(-1, sizes.head_dim) for layer in self._layers]

    def write(self, layer: int, states: torch.Tensor, slots: torch.Tensor) -> None:
        """Stores (tokens, 2 * kv heads * head_dim), keys before values, at `slots`."""
        sides = 2 * self._sizes.num_kv_heads
        vectors = states.view(states.shape[0], sides, self._sizes.head_dim)
        self._vectors[layer].index_copy_(
            0, slots, vectors.transpose(0, 1).reshape(-1, self._sizes.head_dim)
        )

    def read(self, layer: int, rows: torch.Tensor, tiles: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns keys and values, each (kv heads * tiles, columns, head_dim)."""
        sizes = self._sizes
        gathered = self._layers[layer].index_select(0, rows)
        both = gathered.view(2, sizes.num_kv_heads * tiles, -1, sizes.head_dim)
        return both[0], both[1]

    def clear(self, layer: int, blocks: Sequence[int]) -> None:
        """Zeroes blocks, so that what a broken sequence left cannot reach another."""
        heads = self._layers[layer].view(2 * self._sizes.num_kv_heads, -1, self._row)
        heads[:, list(blocks)] = 0


def _zeros(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy's zeros are untouched pages, torch's are written.
    kind = np.uint16 if dtype.itemsize == 2 else np.uint32
    return torch.from_numpy(np.zeros(shape, kind)).view(dtype)

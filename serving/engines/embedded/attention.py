"""Attention over paged keys and values, with sinks, one formula for decode and prefill.

A query row at position p always sees its keys in the same columns of the same-shaped tile, whether
it is decoded alone, in a batch, or prefilled in a chunk of any size:

    full layer     [null block | block 0 | block 1 | ... ]            column of key j: b + j
    sliding layer  [null block | lead blocks | blocks of p's tile]    tile = p // tile_rows

Columns that a row must not see get minus infinity, which adds exact zeros to every sum. So the
bits of a row do not depend on what else is in the step (with bfloat16 on oneDNN, whose products
do not depend on the number of rows), and a sequence gives the same tokens alone, batched, chunked,
from the prefix cache, or computed again after preemption.

The null block holds zeros. Its first column carries the attention sink: a logit without a value.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from serving.engines.embedded.checkpoint import ModelConfig

LEAST_TILE_ROWS = 64
NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes that every tile follows from, in tokens, rows and blocks."""

    num_kv_heads: int
    group: int
    head_dim: int
    block_tokens: int
    tile_rows: int
    """Query positions in a prefill tile: a multiple of `block_tokens`."""
    lead_blocks: int
    """Blocks before a tile that its first row can still see through the sliding window."""
    sliding_window: int

    @property
    def tile_blocks(self) -> int:
        """Blocks of the tile's own positions."""
        return self.tile_rows // self.block_tokens

    @property
    def sliding_blocks(self) -> int:
        """Columns of a sliding tile in blocks, the null block included."""
        return 1 + self.lead_blocks + self.tile_blocks

    @property
    def early_tiles(self) -> int:
        """Tiles at the start of a sequence whose lead reaches before position 0."""
        return -(-self.lead_blocks // self.tile_blocks)


def geometry(config: ModelConfig, block_tokens: int) -> Geometry:
    """Returns the tile sizes for a model and a cache block."""
    return Geometry(
        num_kv_heads=config.num_kv_heads,
        group=config.group,
        head_dim=config.head_dim,
        block_tokens=block_tokens,
        tile_rows=-(-LEAST_TILE_ROWS // block_tokens) * block_tokens,
        lead_blocks=-(-(config.sliding_window - 1) // block_tokens),
        sliding_window=config.sliding_window,
    )


def causal_mask(sizes: Geometry, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Returns additive (tile_rows, tile_rows): what a tile's rows see of its own positions."""
    square = torch.full((sizes.tile_rows, sizes.tile_rows), NEVER, dtype=dtype, device=device)
    return square.triu_(1)


def window_masks(sizes: Geometry, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Returns additive ((early_tiles + 1) * tile_rows, columns) of sliding tiles.

    Row t * tile_rows + r is for row r of tile t; every tile from `early_tiles` on has the last.
    The null block's columns are left to the sink.
    """
    tiles, rows, b = sizes.early_tiles + 1, sizes.tile_rows, sizes.block_tokens
    start = torch.arange(tiles).view(-1, 1, 1) * rows
    position = start + torch.arange(rows).view(1, -1, 1)
    columns = torch.arange((sizes.sliding_blocks - 1) * b)
    key = start - sizes.lead_blocks * b + columns
    hidden = (key < 0) | (key > position) | (key <= position - sizes.sliding_window)
    mask = torch.zeros((tiles, rows, b + len(columns)))
    mask[:, :, b:].masked_fill_(hidden, NEVER)
    return mask.view(tiles * rows, -1).to(device=device, dtype=dtype)


def sink_columns(sinks: torch.Tensor, sizes: Geometry) -> torch.Tensor:
    """Returns (kv heads, 1, 1, group, block_tokens): the scores of the null block's columns."""
    columns = sinks.new_full((sinks.shape[0], sizes.block_tokens), NEVER)
    columns[:, 0] = sinks
    return columns.view(sizes.num_kv_heads, 1, 1, sizes.group, sizes.block_tokens)


def by_kv_head(queries: torch.Tensor, sizes: Geometry) -> torch.Tensor:
    """Turns (tokens, query heads * head_dim) into (kv heads, tokens * group, head_dim).

    The query heads of one key head become rows, so keys and values are never expanded.
    """
    tokens = queries.shape[0]
    split = queries.view(tokens, sizes.num_kv_heads, sizes.group * sizes.head_dim)
    return split.transpose(0, 1).reshape(sizes.num_kv_heads, -1, sizes.head_dim)


def by_token(outputs: torch.Tensor, sizes: Geometry) -> torch.Tensor:
    """Undoes `by_kv_head`: (kv heads, tokens * group, head_dim) to (tokens, width)."""
    width = sizes.group * sizes.head_dim
    split = outputs.reshape(sizes.num_kv_heads, -1, width).transpose(0, 1)
    return split.reshape(-1, sizes.num_kv_heads * width)


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    sink: torch.Tensor,
    mask: torch.Tensor | None,
    sizes: Geometry,
) -> torch.Tensor:
    """Returns (kv heads * tiles, rows * group, head_dim) for queries of that shape.

    Keys and values are (kv heads * tiles, columns, head_dim) and begin with the null block; `sink`
    is from `sink_columns`; `mask` (tiles or 1, rows, 1, width) is added to the last `width`
    columns. Queries come scaled.
    """
    scores = torch.bmm(queries, keys.transpose(1, 2))
    columns = scores.shape[-1]
    rows = scores.shape[1] // sizes.group
    grid = scores.view(sizes.num_kv_heads, -1, rows, sizes.group, columns)
    grid[..., : sizes.block_tokens] = sink
    if mask is not None:
        grid[..., columns - mask.shape[-1] :] += mask
    # In place: each row is read whole before it is written.
    torch.ops.aten._softmax.out(scores, -1, False, out=scores)
    return torch.bmm(scores, values)


def prefill(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    sink: torch.Tensor,
    mask: torch.Tensor,
    first_tile: int,
    sizes: Geometry,
) -> torch.Tensor:
    """Full attention for whole tiles: (kv heads, tiles * tile_rows * group, head_dim), as given.

    Keys and values are (kv heads, columns, head_dim) from the start of the sequence; each tile
    takes the columns up to its own end, so nothing of the upper triangle is computed beyond it.
    """
    outputs = torch.empty_like(queries)
    height = sizes.tile_rows * sizes.group
    for tile, top in enumerate(range(0, queries.shape[1], height)):
        columns = sizes.block_tokens + (first_tile + tile + 1) * sizes.tile_rows
        rows = slice(top, top + height)
        outputs[:, rows] = attend(
            queries[:, rows], keys[:, :columns], values[:, :columns], sink, mask, sizes
        )
    return outputs

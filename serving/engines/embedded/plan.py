"""What one forward pass reads and writes, as tensors: made once a step, used by every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from serving.engines.embedded.attention import NEVER, Geometry, window_masks
from serving.engines.embedded.blocks import TRASH_BLOCK

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens `start` to `start + len(tokens)` of one sequence, and its two block tables.

    A table maps the i-th block of the sequence to a block of the pool; entries without one are 0.
    Positions before `kept` have their keys and values already, in blocks that others read too.
    `samples` is true when the span ends the sequence so far: its last row chooses the next token.
    """

    tokens: Indices
    start: int
    full_table: Indices
    sliding_table: Indices
    samples: bool
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Rows:
    """Single-token spans that attend together: `rows` of the packed batch, one tile each."""

    rows: slice
    reads: torch.Tensor  # (2 * kv heads * rows * blocks,)
    mask: torch.Tensor  # (rows, 1, 1, columns)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A longer span, laid over whole tiles."""

    rows: slice
    lead_rows: int  # rows of the first tile that come before the span
    first_tile: int
    tiles: int
    full_reads: torch.Tensor
    sliding_reads: torch.Tensor
    sliding_mask: torch.Tensor  # (tiles, tile_rows, 1, columns)


@dataclass(frozen=True, slots=True)
class Plan:
    """One step. Single-token spans come first, then chunks."""

    tokens: torch.Tensor  # (tokens,)
    positions: torch.Tensor  # (tokens,)
    full_writes: torch.Tensor  # (2 * kv heads * tokens,)
    sliding_writes: torch.Tensor
    full: tuple[Rows, ...]
    sliding: Rows | None
    chunks: tuple[Chunk, ...]
    sampled: torch.Tensor  # rows whose logits are wanted


class Planner:
    """Turns spans into plans for one model, cache and device."""

    def __init__(
        self,
        sizes: Geometry,
        full_blocks: int,
        sliding_blocks: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._sizes = sizes
        self._device = device
        self._dtype = dtype
        sides = np.arange(2 * sizes.num_kv_heads, dtype=np.int64)
        self._full_sides = sides * full_blocks
        self._sliding_sides = sides * sliding_blocks
        self._windows = window_masks(sizes, dtype, device)

    def order(self, spans: Sequence[Span]) -> list[int]:
        """Returns the order in which `plan` packs: short contexts first, then chunks."""

        def key(index: int) -> tuple[bool, int]:
            single = len(spans[index].tokens) == 1
            return not single, self.bucket(spans[index]) if single else 0

        return sorted(range(len(spans)), key=key)

    def plan(self, spans: Sequence[Span]) -> Plan:
        """Returns the plan for spans that are in `order`."""
        singles = sum(len(span.tokens) == 1 for span in spans)
        return self._plan(spans, singles, tuple(self._full_groups(spans[:singles])))

    def decode(self, spans: Sequence[Span], blocks: int) -> Plan:
        """Returns a plan whose shapes follow from the number of single-token spans and from
        `blocks` alone: every row reads that many blocks in the full layers."""
        return self._plan(spans, len(spans), (self._full_rows(spans, 0, blocks),))

    def _plan(self, spans: Sequence[Span], singles: int, full: tuple[Rows, ...]) -> Plan:
        positions = [np.arange(span.start, span.start + len(span.tokens)) for span in spans]
        ends = list(accumulate(len(span.tokens) for span in spans))
        sampled = [end - 1 for span, end in zip(spans, ends, strict=True) if span.samples]
        return Plan(
            tokens=self._tensor(np.concatenate([span.tokens for span in spans])),
            positions=self._tensor(np.concatenate(positions)),
            full_writes=self._writes(
                [self._slots(span.full_table, span) for span in spans], self._full_sides
            ),
            sliding_writes=self._writes(
                [self._slots(span.sliding_table, span) for span in spans], self._sliding_sides
            ),
            full=full,
            sliding=self._sliding_rows(spans[:singles]) if singles else None,
            chunks=tuple(
                self._chunk(span, end - len(span.tokens))
                for span, end in zip(spans[singles:], ends[singles:], strict=True)
            ),
            sampled=self._tensor(np.array(sampled, dtype=np.int64)),
        )

    def bucket(self, span: Span) -> int:
        """Returns how many blocks a single-token span reads in full layers, rounded up."""
        return bucket_blocks(span.start // self._sizes.block_tokens + 1)

    def _full_groups(self, spans: Sequence[Span]) -> list[Rows]:
        groups: list[Rows] = []
        start = 0
        while start < len(spans):
            blocks = self.bucket(spans[start])
            stop = start + 1
            while stop < len(spans) and self.bucket(spans[stop]) == blocks:
                stop += 1
            groups.append(self._full_rows(spans[start:stop], start, blocks))
            start = stop
        return groups

    def _full_rows(self, spans: Sequence[Span], start: int, blocks: int) -> Rows:
        """Returns rows `start` on, each reading `blocks` blocks from its sequence's first."""
        table = np.zeros((len(spans), 1 + blocks), dtype=np.int64)
        for row, span in zip(table, spans, strict=True):
            held = span.full_table[:blocks]
            row[1 : 1 + len(held)] = held
        b = self._sizes.block_tokens
        last = np.array([span.start + b for span in spans])[:, None]
        hidden = torch.from_numpy(np.arange((1 + blocks) * b) > last)
        mask = torch.zeros(hidden.shape, dtype=self._dtype).masked_fill_(hidden, NEVER)
        return Rows(
            slice(start, start + len(spans)),
            self._reads(table, self._full_sides),
            mask.view(len(spans), 1, 1, -1).to(self._device),
        )

    def _sliding_rows(self, spans: Sequence[Span]) -> Rows:
        rows = self._sizes.tile_rows
        tiles = np.array([span.start // rows for span in spans])
        table = np.stack(
            [self._window(s.sliding_table, t) for s, t in zip(spans, tiles.tolist(), strict=True)]
        )
        offsets = np.array([span.start % rows for span in spans])
        mask_rows = np.minimum(tiles, self._sizes.early_tiles) * rows + offsets
        mask = self._windows.index_select(0, self._tensor(mask_rows))
        return Rows(
            slice(0, len(spans)),
            self._reads(table, self._sliding_sides),
            mask.view(len(spans), 1, 1, -1),
        )

    def _chunk(self, span: Span, row: int) -> Chunk:
        sizes = self._sizes
        count = len(span.tokens)
        first = span.start // sizes.tile_rows
        tiles = (span.start + count - 1) // sizes.tile_rows - first + 1
        full = np.zeros((1, 1 + (first + tiles) * sizes.tile_blocks), dtype=np.int64)
        held = span.full_table[: full.shape[1] - 1]
        full[0, 1 : 1 + len(held)] = held
        windows = np.stack(
            [self._window(span.sliding_table, tile) for tile in range(first, first + tiles)]
        )
        kinds = np.minimum(np.arange(first, first + tiles), sizes.early_tiles)
        masks = self._windows.view(sizes.early_tiles + 1, sizes.tile_rows, 1, -1)
        return Chunk(
            rows=slice(row, row + count),
            lead_rows=span.start % sizes.tile_rows,
            first_tile=first,
            tiles=tiles,
            full_reads=self._reads(full, self._full_sides),
            sliding_reads=self._reads(windows, self._sliding_sides),
            sliding_mask=masks.index_select(0, self._tensor(kinds)),
        )

    def _window(self, table: Indices, tile: int) -> Indices:
        """The blocks of a sliding tile: null, then `lead_blocks` before it, then its own."""
        sizes = self._sizes
        start = tile * sizes.tile_blocks - sizes.lead_blocks
        row = np.zeros(sizes.sliding_blocks, dtype=np.int64)
        held = table[max(start, 0) : (tile + 1) * sizes.tile_blocks]
        skip = 1 + max(-start, 0)
        row[skip : skip + len(held)] = held
        return row

    def _reads(self, table: Indices, sides: Indices) -> torch.Tensor:
        """Rows of a layer's tensor for a (tiles, blocks) table."""
        return self._tensor((sides[:, None, None] + table).reshape(-1))

    def _slots(self, table: Indices, span: Span) -> Indices:
        """Where the span's keys and values go; those that are kept already, to the trash block."""
        b = self._sizes.block_tokens
        at = np.arange(span.start, span.start + len(span.tokens))
        slots: Indices = table[at // b] * b + at % b
        if span.kept > span.start:
            slots[: span.kept - span.start] = TRASH_BLOCK * b
        return slots

    def _writes(self, slots: Sequence[Indices], sides: Indices) -> torch.Tensor:
        rows = sides[:, None] * self._sizes.block_tokens + np.concatenate(slots)
        return self._tensor(rows.reshape(-1))

    def _tensor(self, array: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def bucket_blocks(blocks: int) -> int:
    """Rounds up to 1, 2, 3, 4, 6, 8, 12, 16, 24 ...: at most half again what is needed.

    Rows of one bucket share a product, and a row's padding depends on its own length alone.
    """
    power = 1 << (blocks - 1).bit_length()
    return power * 3 // 4 if power >= 4 and blocks <= power * 3 // 4 else power

from __future__ import annotations

import pytest
import torch

from serving.engines.embedded import attention
from serving.engines.embedded.attention import Geometry

CPU = torch.device("cpu")


def sizes(window: int = 20, block_tokens: int = 16) -> Geometry:
    rows = -(-attention.LEAST_TILE_ROWS // block_tokens) * block_tokens
    return Geometry(2, 3, 8, block_tokens, rows, -(-(window - 1) // block_tokens), window)


@pytest.mark.parametrize(
    ("window", "block_tokens"), [(1, 16), (16, 16), (20, 16), (128, 16), (100, 32), (7, 128)]
)
def test_window_masks_show_exactly_the_window(window: int, block_tokens: int) -> None:
    shape = sizes(window, block_tokens)
    masks = attention.window_masks(shape, torch.float32, CPU)
    lead = shape.lead_blocks * block_tokens
    for tile in range(shape.early_tiles + 1):
        for row in range(shape.tile_rows):
            position = tile * shape.tile_rows + row
            visible = masks[position][block_tokens:] == 0
            keys = torch.nonzero(visible).flatten() + tile * shape.tile_rows - lead
            assert keys.tolist() == list(range(max(position - window + 1, 0), position + 1))


def test_later_tiles_see_their_whole_lead() -> None:
    shape = sizes(window=128)
    last = attention.window_masks(shape, torch.float32, CPU)[-shape.tile_rows :]
    assert (last[0] == 0).sum() == shape.block_tokens + 128


def test_heads_and_tokens_change_places_and_back() -> None:
    shape = sizes()
    queries = torch.randn((5, 2 * 3 * 8), generator=torch.Generator().manual_seed(0))
    rows = attention.by_kv_head(queries, shape)
    assert rows.shape == (2, 5 * 3, 8)
    assert torch.equal(rows[1, 4 * 3 + 2], queries[4].view(2, 3, 8)[1, 2])
    assert torch.equal(attention.by_token(rows, shape), queries)


def test_attend_is_softmax_with_a_sink() -> None:
    shape, columns, rows = sizes(), 48, 4
    random = torch.Generator().manual_seed(0)
    queries = torch.randn((2 * 2, rows * 3, 8), generator=random)
    keys, values = (torch.randn((2 * 2, columns, 8), generator=random) for _ in range(2))
    keys[:, :16] = values[:, :16] = 0.0
    sinks = torch.randn(6, generator=random)
    hidden = torch.rand((2, rows, 1, columns - 16), generator=random) < 0.5
    hidden[..., 0] = False
    mask = torch.zeros(hidden.shape).masked_fill(hidden, attention.NEVER)
    sink = attention.sink_columns(sinks, shape)
    mixed = attention.attend(queries, keys, values, sink, mask, shape)

    for head in range(2):
        for tile in range(2):
            for row in range(rows * 3):
                batch, seen = head * 2 + tile, ~hidden[tile, row // 3, 0]
                scores = keys[batch, 16:][seen] @ queries[batch, row]
                exponents = torch.cat((scores, sinks[head * 3 + row % 3].view(1))).softmax(0)
                expected = exponents[:-1] @ values[batch, 16:][seen]
                torch.testing.assert_close(mixed[batch, row], expected)

"""The forward pass against transformers' model of the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serving.engines.embedded.kv_store import KvStore
from serving.engines.embedded.loading import load_model
from serving.engines.embedded.model import Layer, Model
from serving.engines.embedded.plan import Planner, Span

BLOCKS = 64
SHAPES: dict[str, dict[str, Any]] = {
    "mxfp4": {},
    "plain, wide heads, shards": {
        "mxfp4": False,
        "shards": 3,
        "layers": 3,
        "heads": 8,
        "kv_heads": 1,
        "head_dim": 64,
    },
    "many experts": {"experts": 16, "per_token": 4, "intermediate": 64, "window": 128},
    "no grouping, narrow window": {"heads": 2, "kv_heads": 2, "window": 5, "layers": 4},
}


@pytest.mark.parametrize("block_tokens", [16, 32])
@pytest.mark.parametrize("numbers", SHAPES.values(), ids=SHAPES.keys())
def test_logits_are_those_of_transformers(
    write_checkpoint: Callable[..., Path],
    oracle: Callable[..., Any],
    shape: Any,
    numbers: dict[str, Any],
    block_tokens: int,
    device: torch.device,
) -> None:
    """Chunks and single tokens in turn, 300 tokens: past the window and past several tiles."""
    chosen = shape(**numbers)
    directory = write_checkpoint(chosen)
    tokens = np.random.default_rng(0).integers(0, chosen.vocab, 300)
    model = load_model(directory, block_tokens=block_tokens, dtype=torch.float32, device=device)
    store = KvStore((BLOCKS,) * chosen.layers, model.sizes, torch.float32, device)
    planner = Planner(model.sizes, BLOCKS, BLOCKS, torch.float32, device)
    table = np.arange(1, BLOCKS)[::-1].copy()

    with torch.inference_mode():
        expected = oracle(directory, chosen)(torch.tensor(tokens)[None]).logits[0]
        done, worst = 0, 0.0
        for count in (100, 1, 1, 37, 64, 1, 96):
            span = Span(tokens[done : done + count], done, table, table, samples=True)
            done += count
            logits = model.forward(planner.plan([span]), store)[0].cpu()
            worst = max(worst, float((logits - expected[done - 1]).abs().max()))
    assert done == len(tokens)
    assert worst <= 1e-3 * float(expected.abs().max())


def test_sequences_in_one_batch_do_not_mix(
    write_checkpoint: Callable[..., Path],
    oracle: Callable[..., Any],
    shape: Any,
    device: torch.device,
) -> None:
    """Two chunks and two single tokens of four sequences in one pass."""
    chosen = shape()
    directory = write_checkpoint(chosen)
    model = load_model(directory, block_tokens=16, dtype=torch.float32, device=device)
    store = KvStore((BLOCKS,) * chosen.layers, model.sizes, torch.float32, device)
    planner = Planner(model.sizes, BLOCKS, BLOCKS, torch.float32, device)
    random = np.random.default_rng(1)
    lengths = (90, 20, 70, 33)
    prompts = [random.integers(0, chosen.vocab, length) for length in lengths]
    tables = [np.arange(8) + 2 + 8 * index for index in range(4)]
    split = (89, 19, 30, 10)

    with torch.inference_mode():
        for start, stop in ((0, split), (split, lengths)):
            starts = (0, 0, 0, 0) if start == 0 else split
            spans = [
                Span(prompt[a:b], a, table, table, samples=True)
                for prompt, a, b, table in zip(prompts, starts, stop, tables, strict=True)
            ]
            order = planner.order(spans)
            logits = model.forward(planner.plan([spans[index] for index in order]), store).cpu()
        reference = oracle(directory, chosen)
        for row, index in enumerate(order):
            expected = reference(torch.tensor(prompts[index])[None]).logits[0, -1]
            torch.testing.assert_close(logits[row], expected, rtol=1e-3, atol=1e-4)
    assert sorted(order[:2]) == [0, 1]


def test_bfloat16_is_close_to_float32(
    write_checkpoint: Callable[..., Path], shape: Any, device: torch.device
) -> None:
    directory = write_checkpoint(shape())
    tokens = np.arange(100)
    table = np.arange(1, BLOCKS)
    logits = []
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model(directory, block_tokens=16, dtype=dtype, device=device)
        store = KvStore((BLOCKS, BLOCKS), model.sizes, dtype, device)
        planner = Planner(model.sizes, BLOCKS, BLOCKS, dtype, device)
        with torch.inference_mode():
            span = Span(tokens, 0, table, table, samples=True)
            logits.append(model.forward(planner.plan([span]), store)[0].float().cpu())
    similarity = torch.nn.functional.cosine_similarity(logits[0], logits[1], dim=0)
    assert similarity > 0.99


def test_the_fused_kernel_in_the_place_of_tiles_gives_the_same_logits(
    write_checkpoint: Callable[..., Path],
    shape: Any,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The path of a GPU, on any device: chunks of full layers through `flash`."""
    model = load_model(
        write_checkpoint(shape()), block_tokens=16, dtype=torch.float32, device=device
    )
    planner = Planner(model.sizes, BLOCKS, BLOCKS, torch.float32, device)
    tokens, table = np.arange(200), np.arange(1, BLOCKS)
    logits = []
    for method in (Model._chunk, fused):
        monkeypatch.setattr(Model, "_chunk", method)
        store = KvStore((BLOCKS, BLOCKS), model.sizes, torch.float32, device)
        with torch.inference_mode():
            for start, stop in ((0, 90), (90, 200)):
                span = Span(tokens[start:stop], start, table, table, samples=True)
                last = model.forward(planner.plan([span]), store)
        logits.append(last)
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)


TILED = Model._chunk


def fused(self: Model, index: int, layer: Layer, *rest: Any) -> torch.Tensor:
    path = TILED if layer.sliding else Model._flash_chunk
    return path(self, index, layer, *rest)

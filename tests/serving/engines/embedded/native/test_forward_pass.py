"""The forward pass in C computes what torch's operators do, and each row by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from serving.engines.embedded import int8
from serving.engines.embedded.forward_pass import TorchPass
from serving.engines.embedded.native.forward_pass import NativePass
from serving.engines.embedded.plan import Span

MakeNative = Callable[..., NativePass]
MakeTorch = Callable[..., TorchPass]
LogitsAfter = Callable[..., torch.Tensor]

CHUNKS = (70, 1, 1, 45, 1, 90, 1)
TOKENS = np.random.default_rng(1).integers(0, 300, sum(CHUNKS)).tolist()
SHAPES: dict[str, dict[str, Any]] = {
    "groups of 2": {},
    "groups of 4": {"heads": 8, "head_dim": 64},
    "groups of 8": {"heads": 16, "kv_heads": 2, "layers": 4},
    "groups of 3": {"heads": 6, "kv_heads": 2},
    "no groups": {"heads": 3, "kv_heads": 3},
    "wide": {"hidden": 192, "intermediate": 96, "experts": 6, "per_token": 6},
    "plain experts": {"mxfp4": False, "window": 100},
    "a window of a block": {"window": 16},
    "int8": {"int8": True, "heads": 6, "hidden": 96, "intermediate": 96},
}
FORMS: dict[str, dict[str, Any]] = {"bfloat16": {}, "int8": {"int8": True}}
BLOCKS_OF = (16, 32)
"""Tokens: with heads of 64, the second are of whole tiles."""


@pytest.mark.parametrize("block_tokens", [16, 32, 48])
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_logits_are_those_of_torch(
    native_pass: MakeNative,
    torch_pass: MakeTorch,
    logits_after: LogitsAfter,
    shape: Any,
    changes: dict[str, Any],
    block_tokens: int,
) -> None:
    """To the rounding of bfloat16: as close to float32 as torch is when it rounds so too.

    All experts are chosen: where two score alike, rounding would decide, and the logits differ.
    """
    chosen = replace(shape(dtype=torch.bfloat16, per_token=4), **changes)
    exact = logits_after(torch_pass(chosen, block_tokens), TOKENS, CHUNKS)
    rounded = logits_after(torch_pass(chosen, block_tokens, torch.bfloat16), TOKENS, CHUNKS)
    found = logits_after(native_pass(chosen, block_tokens), TOKENS, CHUNKS)
    assert deviations(found, exact).max() < 1.25 * deviations(rounded, exact).max()
    assert deviations(found, exact).median() < 0.1


def test_experts_in_mxfp4_give_the_bits_of_bfloat16(
    native_pass: MakeNative, logits_after: LogitsAfter, shape: Any
) -> None:
    """The second matrices' 96 outputs are a panel and a half."""
    chosen = shape(dtype=torch.bfloat16, hidden=96, intermediate=128, experts=3)
    packed, unpacked = native_pass(chosen, most_unpacked_bytes=0), native_pass(chosen)
    assert packed.model.layers[1].gate_up.scales
    assert not unpacked.model.layers[1].gate_up.scales
    held = [sum(kept.nbytes for kept in forward.model.kept) for forward in (packed, unpacked)]
    assert held[0] < held[1]
    found, expected = (logits_after(forward, TOKENS, CHUNKS) for forward in (packed, unpacked))
    assert torch.equal(found, expected)


def test_plain_experts_have_nothing_to_unpack(
    native_pass: MakeNative, logits_after: LogitsAfter, shape: Any
) -> None:
    chosen = shape(dtype=torch.bfloat16, mxfp4=False)
    passes = native_pass(chosen, most_unpacked_bytes=0), native_pass(chosen)
    found, expected = (logits_after(forward, TOKENS, CHUNKS) for forward in passes)
    assert torch.equal(found, expected)


def test_matrices_in_int8_are_held_so(
    native_pass: MakeNative, shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte a weight, and not for a moment more; the 300 rows of the LM head are five panels."""
    chosen = shape(dtype=torch.bfloat16, experts=3)
    plain = native_pass(chosen).model
    monkeypatch.setattr(int8, "dequantise", None)
    coded = native_pass(replace(chosen, int8=True)).model
    assert coded.structs.head.row_scales
    assert not plain.structs.head.row_scales
    for layer in coded.layers:
        assert layer.qkv.row_scales
        assert layer.out.row_scales
        assert not layer.router.row_scales
    held = [[kept for kept in m.kept if kept.dtype == torch.uint8] for m in (plain, coded)]
    assert [kept.nbytes for kept in held[1]] == [5 * 64 * 64] + [256 * 64, 64 * 128] * 2
    assert held[0] == []


def test_the_best_experts_are_chosen(
    native_pass: MakeNative, torch_pass: MakeTorch, logits_after: LogitsAfter, shape: Any
) -> None:
    """Few rows have two experts that score alike; the others show whether the right ones ran."""
    chosen = shape(dtype=torch.bfloat16, experts=9, per_token=4, layers=1)
    chunks = [1] * 64
    exact = logits_after(torch_pass(chosen), TOKENS, chunks)
    found = deviations(logits_after(native_pass(chosen), TOKENS, chunks), exact)
    assert (found < 0.03).sum() > 56


def deviations(found: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """Returns each row's root mean square of the difference, in units of the row's own spread."""
    return (found - exact).pow(2).mean(1).sqrt() / exact.std(1)


@pytest.mark.parametrize("block_tokens", BLOCKS_OF)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_chunk_gives_the_bits_of_its_tokens_one_by_one(
    native_pass: MakeNative,
    logits_after: LogitsAfter,
    shape: Any,
    form: dict[str, Any],
    block_tokens: int,
) -> None:
    chosen = shape(dtype=torch.bfloat16, heads=8, head_dim=64, **form)
    single = logits_after(native_pass(chosen, block_tokens), TOKENS, [1] * len(TOKENS))
    chunked = logits_after(native_pass(chosen, block_tokens), TOKENS, CHUNKS)
    ends = np.cumsum(CHUNKS) - 1
    assert torch.equal(single[ends.tolist()], chunked)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_spans_of_one_step_do_not_see_each_other(
    native_pass: MakeNative, logits_after: LogitsAfter, shape: Any, form: dict[str, Any]
) -> None:
    """A decode, two prompts, and a chunk whose logits are not wanted."""
    forward = native_pass(shape(dtype=torch.bfloat16, **form))
    alone = logits_after(native_pass(shape(dtype=torch.bfloat16, **form)), TOKENS, (40, 1))
    ids = np.array(TOKENS)
    tables = [2 + np.arange(8) + 8 * number for number in range(4)]
    forward.run([Span(ids[:40], 0, tables[0], tables[0], samples=False)])
    spans = [
        Span(ids[50:80], 0, tables[1], tables[1], samples=False),
        Span(ids[40:41], 40, tables[0], tables[0], samples=True),
        Span(ids[:40], 0, tables[2], tables[2], samples=True),
        Span(ids[:41], 0, tables[3], tables[3], samples=True),
    ]
    order, logits = forward.run(spans)
    assert order == [0, 1, 2, 3]
    assert torch.equal(logits.float(), alone[[1, 0, 1]])


def test_a_step_without_a_sample_has_no_logits(native_pass: MakeNative, shape: Any) -> None:
    forward = native_pass(shape(dtype=torch.bfloat16))
    table = np.arange(2, 6)
    _, logits = forward.run([Span(np.arange(20), 0, table, table, samples=False)])
    assert logits.shape == (0, 300)


def test_kept_positions_are_not_written(
    native_pass: MakeNative, logits_after: LogitsAfter, shape: Any
) -> None:
    """Other sequences may be reading the block that holds them."""
    forward = native_pass(shape(dtype=torch.bfloat16))
    table = np.arange(2, 10)
    expected = logits_after(forward, TOKENS, (32, 1))
    others = np.full(32, 7)
    forward.run([Span(others, 0, table, table, samples=False, kept=32)])
    last = Span(np.array(TOKENS[32:33]), 32, table, table, samples=True)
    assert torch.equal(forward.run([last])[1][0].float(), expected[1])
    forward.run([Span(others, 0, table, table, samples=False, kept=31)])
    assert not torch.equal(forward.run([last])[1][0].float(), expected[1])


def test_cleared_blocks_read_as_zeros(
    native_pass: MakeNative, logits_after: LogitsAfter, shape: Any
) -> None:
    chosen = shape(dtype=torch.bfloat16)
    forward, fresh = native_pass(chosen), native_pass(chosen)
    table = np.arange(2, 10)
    ids = np.array(TOKENS)
    last = Span(ids[32:33], 32, table, table, samples=True)
    untouched = fresh.run([last])[1]
    forward.run([Span(ids[:32], 0, table, table, samples=False)])
    assert not torch.equal(forward.run([last])[1], untouched)
    forward.clear([2, 3, 4], [2, 3, 4])
    assert torch.equal(forward.run([last])[1], untouched)


@pytest.mark.parametrize("block_tokens", BLOCKS_OF)
def test_what_is_not_a_number_stays_with_its_sequence(
    native_pass: MakeNative, logits_after: LogitsAfter, shape: Any, block_tokens: int
) -> None:
    forward = native_pass(shape(dtype=torch.bfloat16, head_dim=64), block_tokens)
    expected = logits_after(forward, TOKENS, (20,))
    embedding = next(kept for kept in forward.model.kept if kept.shape == (300, 64))
    with torch.inference_mode():
        embedding[299] = float("nan")
    tables = [2 + np.arange(8) + 8 * number for number in range(2)]
    spans = [
        Span(np.array([5, 299, 5]), 0, tables[0], tables[0], samples=True),
        Span(np.array(TOKENS[:20]), 0, tables[1], tables[1], samples=True),
    ]
    _, logits = forward.run(spans)
    assert logits[0].isnan().all()
    assert torch.equal(logits[1].float(), expected[0])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_two_threads_give_the_bits_of_one(
    native_pass: MakeNative, logits_after: LogitsAfter, shape: Any, form: dict[str, Any]
) -> None:
    chosen = shape(dtype=torch.bfloat16, hidden=128, heads=8, head_dim=64, **form)
    one = logits_after(native_pass(chosen, 32), TOKENS, CHUNKS)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = logits_after(native_pass(chosen, 32), TOKENS, CHUNKS)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, two)

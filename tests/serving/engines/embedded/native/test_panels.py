"""Weights in panels."""

from __future__ import annotations

import torch

from serving.engines.embedded.native.panels import (
    CODED_AT_ONCE,
    PANEL,
    byte_panels,
    code_panels,
    panels,
)


def test_panels_hold_pairs_of_inputs_for_each_output() -> None:
    weight = torch.randn(100, 6).to(torch.bfloat16)
    packed = panels(weight)
    assert packed.shape == (2, 3, PANEL, 2)
    for row, column in ((0, 0), (63, 5), (64, 2), (99, 3)):
        found = packed[row // PANEL, column // 2, row % PANEL, column % 2]
        assert found == weight[row, column]
    assert not packed[1, :, 100 - PANEL :].any()


def test_bytes_are_transposed_within_panels() -> None:
    codes = torch.randint(0, 256, (2, 100, 5), dtype=torch.uint8)
    packed = byte_panels(codes)
    assert packed.shape == (2, 2, 5, PANEL)
    assert packed.is_contiguous()
    for row, column in ((0, 0), (63, 4), (64, 2), (99, 3)):
        assert torch.equal(packed[:, row // PANEL, column, row % PANEL], codes[:, row, column])
    assert not packed[:, 1, :, 100 - PANEL :].any()


def test_a_stack_is_packed_one_by_one() -> None:
    stack = torch.randn(3, 70, 4).to(torch.bfloat16)
    packed = panels(stack)
    assert packed.is_contiguous()
    for number in range(3):
        assert torch.equal(packed[number], panels(stack[number]))


def test_codes_are_signs_and_magnitudes_of_pairs_of_inputs() -> None:
    """More rows than are packed at once, and a part of a panel at the end."""
    rows = CODED_AT_ONCE * PANEL + 100
    codes = torch.randint(-127, 128, (rows, 6), dtype=torch.int8)
    packed = code_panels(codes)
    assert packed.dtype == torch.uint8
    assert packed.shape == (CODED_AT_ONCE + 2, 3, PANEL, 2)
    order = [*range(4), *range(16, 20), *range(4, 8), *range(20, 24)]
    order += [*range(8, 12), *range(24, 28), *range(12, 16), *range(28, 32)]
    places = torch.tensor(order + [32 + place for place in order])
    by_output = torch.empty_like(packed)
    by_output[:, :, places] = packed
    found = by_output.transpose(1, 2).reshape(-1, 6)
    magnitudes, signs = (found & 127).to(torch.int8), 1 - 2 * (found >> 7).to(torch.int8)
    assert torch.equal((magnitudes * signs)[:rows], codes)
    assert not found[rows:].any()


def test_of_interleaved_rows_the_even_ones_come_first() -> None:
    codes = torch.randint(0, 256, (2, 100, 5), dtype=torch.uint8)
    ordered = torch.cat((codes[:, ::2], codes[:, 1::2]), dim=1)
    assert torch.equal(byte_panels(codes, interleaved=True), byte_panels(ordered))

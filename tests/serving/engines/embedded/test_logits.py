"""The readers of logits: the same answers for every number format, and for what is no number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engines.embedded.logits import (
    BFloat16Rows,
    DeviceRows,
    Float32Rows,
    Rows,
    repair,
    rows,
)

NAN, INFINITY = float("nan"), float("inf")
READERS = [Float32Rows, BFloat16Rows, DeviceRows]
NUMBERS = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 3.5, -3.5, 1e-38, -1e-38, 3e38, -3e38, NAN, -NAN, INFINITY, -INFINITY]
)


def expected(values: list[float]) -> int | None:
    cleaned = [-INFINITY if value != value else value for value in values]
    peak = max(cleaned)
    return None if peak == -INFINITY else cleaned.index(peak)


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=300, deadline=None)
@given(numbers=st.lists(NUMBERS, min_size=1, max_size=40))
def test_the_largest_is_found_among_numbers_and_what_is_none(
    reader: Callable[[torch.Tensor], Rows], numbers: list[float]
) -> None:
    found = reader(torch.tensor([numbers], dtype=torch.bfloat16)).largest(0)
    wanted = expected(numbers)
    if wanted is None or found is None:
        assert found is wanted
    else:
        assert numbers[found] == numbers[wanted]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("shift", [0.0, -100.0, 100.0])
def test_the_largest_of_many_is_that_of_torch(
    reader: Callable[[torch.Tensor], Rows], shift: float
) -> None:
    logits = (torch.randn(8, 4099, generator=torch.Generator().manual_seed(0)) + shift).bfloat16()
    wanted = logits.float().argmax(dim=-1).tolist()
    read = reader(logits)
    assert [read.largest(row) for row in range(8)] == wanted


@pytest.mark.parametrize("reader", READERS)
def test_among_equals_the_lowest_index_wins(reader: Callable[[torch.Tensor], Rows]) -> None:
    read = reader(torch.tensor([[0.0, 2.0, 2.0], [-2.0, -1.0, -1.0]], dtype=torch.bfloat16))
    assert (read.largest(0), read.largest(1)) == (1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_copy_is_the_row_as_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 517, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[1, :3] = torch.tensor([INFINITY, -INFINITY, 0.0])
    target = np.empty(517, dtype=np.float32)
    for row in range(3):
        rows(logits).copy(row, target)
        assert np.array_equal(target, logits[row].float().numpy())


def test_reading_leaves_the_logits_as_they_are() -> None:
    logits = torch.tensor([[NAN, 1.0, INFINITY]])
    before = logits.clone()
    read: Rows = rows(logits)
    read.largest(0)
    assert torch.equal(logits.nan_to_num(5.0), before.nan_to_num(5.0))


def test_repair_leaves_numbers_only() -> None:
    values = np.array([NAN, INFINITY, -INFINITY, 1.0], dtype=np.float32)
    repair(values)
    assert values.tolist() == [-INFINITY, float(np.finfo(np.float32).max), -INFINITY, 1.0]

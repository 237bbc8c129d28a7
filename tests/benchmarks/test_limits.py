"""The bounds against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from benchmarks import limits
from benchmarks.checkpoints import SMALL, TWENTY_BILLION
from benchmarks.limits import Limits

FAST_MEMORY = Limits(bytes_per_second=1e30, operations_per_second=1e12)
FAST_UNITS = Limits(bytes_per_second=44e9, operations_per_second=1e30)


def test_one_stream_reads_the_head_and_the_active_body() -> None:
    # 103.0 MB of LM head, 6.3 MB of experts (4 of 8 in 4 layers), 2.6 MB of attention.
    rate = limits.decode_tokens_per_second(SMALL, FAST_UNITS, 1)
    assert rate == pytest.approx(44e9 / (102.96e6 + 6.29e6 + 2.62e6), rel=0.005)
    coded = limits.decode_tokens_per_second(SMALL, FAST_UNITS, 1, dense_bytes=1.0)
    assert coded == pytest.approx(44e9 / (51.48e6 + 6.29e6 + 1.31e6), rel=0.005)


def test_a_batch_shares_what_it_reads() -> None:
    one = limits.decode_tokens_per_second(SMALL, FAST_UNITS, 1)
    many = limits.decode_tokens_per_second(SMALL, FAST_UNITS, 16)
    assert 14 * one < many < 16 * one


def test_a_long_context_costs_its_keys_and_values_in_the_full_layers() -> None:
    short = limits.decode_tokens_per_second(TWENTY_BILLION, FAST_UNITS, 64, 1024)
    long = limits.decode_tokens_per_second(TWENTY_BILLION, FAST_UNITS, 64, 5120)
    extra = 64 * 4096 * 12 * 2048  # streams, positions, full layers, bytes a position and layer
    assert 44e9 * 64 * (1 / long - 1 / short) == pytest.approx(extra)


def test_a_prompt_is_bound_by_its_multiplications() -> None:
    body = 2 * 4 * (2 * 256 * 640 + 4 * 3 * 256 * 256)
    attention = 4 * (2 * 2048 + 2 * 128) * 512
    rate = limits.prefill_tokens_per_second(SMALL, FAST_MEMORY, 4096)
    assert rate == pytest.approx(1e12 / (body + attention))


def test_the_machine_is_measured() -> None:
    found = limits.measure(torch.device("cpu"), seconds=0.01, megabytes=16, side=256)
    assert 1e8 < found.bytes_per_second < 1e13
    assert 1e8 < found.operations_per_second < 1e16

"""Which code computes a model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from serving.engines.embedded.checkpoint import CheckpointError
from serving.engines.embedded.model import Model
from serving.engines.embedded.native import library
from serving.engines.embedded.native.model import NativeModel
from serving.engines.embedded.opening import open_model
from serving.hosting import machine

WriteCheckpoint = Callable[..., Path]
CPU = torch.device("cpu")


def opened(directory: Path, **changes: Any) -> object:
    arguments: dict[str, Any] = {"block_tokens": 16, "dtype": torch.bfloat16, "device": CPU}
    model, open_pass = open_model(directory, **(arguments | changes))
    open_pass(8, 8).warm_up()
    return model


def test_bfloat16_on_a_cpu_is_computed_in_c(write_checkpoint: WriteCheckpoint, shape: Any) -> None:
    assert isinstance(opened(write_checkpoint(shape())), NativeModel)


@pytest.mark.parametrize("changes", [{"native": False}, {"dtype": torch.float32}])
def test_the_rest_is_computed_by_torch(
    write_checkpoint: WriteCheckpoint, shape: Any, changes: dict[str, Any]
) -> None:
    assert isinstance(opened(write_checkpoint(shape()), **changes), Model)


def test_without_a_compiler_torch_computes_and_it_is_said(
    write_checkpoint: WriteCheckpoint,
    shape: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(cache: Path) -> library.Library:
        raise library.NativeError(f"there is no compiler for {cache.name}")

    monkeypatch.setattr(library, "load", fail)
    with caplog.at_level(logging.WARNING):
        assert isinstance(opened(write_checkpoint(shape())), Model)
    assert "there is no compiler for native" in caplog.text


def test_blocks_of_a_size_that_c_does_not_take_are_no_error(
    write_checkpoint: WriteCheckpoint, shape: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(opened(write_checkpoint(shape()), block_tokens=8), Model)
    assert "block_tokens 8" in caplog.text


def test_what_torch_alone_could_not_hold_is_refused(
    write_checkpoint: WriteCheckpoint, shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gpt-oss-20b would take 38 GB, and the kernel would end the process without a word."""
    monkeypatch.setattr(machine, "memory_bytes", lambda: 1000)
    with pytest.raises(CheckpointError, match="block_tokens 8 is no multiple"):
        opened(write_checkpoint(shape()), block_tokens=8)

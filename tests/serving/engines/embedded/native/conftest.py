"""The compiled functions, as this machine runs them and as ones with less hardware do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serving.engines.embedded.forward_pass import ForwardPass, TorchPass
from serving.engines.embedded.loading import load_model
from serving.engines.embedded.native import library
from serving.engines.embedded.native.forward_pass import NativePass
from serving.engines.embedded.native.library import Library
from serving.engines.embedded.native.model import load_native
from serving.engines.embedded.plan import Span

BLOCKS = 64
CPU = torch.device("cpu")
MACHINES = {"machine": (), "without-tiles": ("-DNO_TILES",), "portable": ("-DPORTABLE",)}


@pytest.fixture(scope="session", params=list(MACHINES.values()), ids=list(MACHINES))
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The compiler's, for one of the machines."""
    chosen: tuple[str, ...] = request.param
    return chosen


@pytest.fixture(scope="session")
def kernels(options: tuple[str, ...]) -> Library:
    return library.load(library.default_cache(), options=options)


@pytest.fixture
def native_pass(
    write_checkpoint: Callable[..., Path], kernels: Library
) -> Callable[..., NativePass]:
    """Returns the forward pass in C of a random checkpoint."""

    def make(shape: Any, block_tokens: int = 16, **options: int) -> NativePass:
        model = load_native(
            write_checkpoint(shape), block_tokens=block_tokens, library=kernels, **options
        )
        return NativePass(model, BLOCKS, BLOCKS)

    return make


@pytest.fixture
def torch_pass(write_checkpoint: Callable[..., Path]) -> Callable[..., TorchPass]:
    """Returns the forward pass in torch's operators of the same checkpoint, in float32."""

    def make(shape: Any, block_tokens: int = 16, dtype: torch.dtype = torch.float32) -> TorchPass:
        model = load_model(
            write_checkpoint(shape), block_tokens=block_tokens, dtype=dtype, device=CPU
        )
        return TorchPass(model, BLOCKS, BLOCKS, batch_sizes=())

    return make


@pytest.fixture
def logits_after() -> Callable[..., torch.Tensor]:
    """Feeds one sequence in chunks and returns float32 (chunks, vocab), the logits after each."""
    return _logits_after


def _logits_after(
    forward: ForwardPass, tokens: Sequence[int], chunks: Sequence[int]
) -> torch.Tensor:
    ids = np.array(tokens, dtype=np.int64)
    table = np.arange(2, BLOCKS)
    rows, done = [], 0
    with torch.inference_mode():
        for count in chunks:
            span = Span(ids[done : done + count], done, table, table, samples=True)
            rows.append(forward.run([span])[1][0].float())
            done += count
    return torch.stack(rows)

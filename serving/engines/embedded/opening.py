"""Which code computes a model: the C functions where they can, else torch's operators."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from serving.engines.embedded.checkpoint import CheckpointError, read_config
from serving.engines.embedded.executor import OpenPass
from serving.engines.embedded.forward_pass import Described, TorchPass
from serving.engines.embedded.loading import load_model
from serving.engines.embedded.native import library
from serving.engines.embedded.native.forward_pass import NativePass
from serving.engines.embedded.native.library import NativeError
from serving.engines.embedded.native.model import DTYPE, expert_bytes, load_native
from serving.hosting import machine

_log = logging.getLogger(__name__)


def open_model(
    directory: Path,
    *,
    block_tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    batch_sizes: tuple[int, ...] = (),
    native: bool = True,
) -> tuple[Described, OpenPass]:
    """Returns the model of a checkpoint directory and what makes its forward pass.

    With `native` and in bfloat16 on a CPU that is the pass in C, which has no use for padded batch
    sizes; a warning is logged where it cannot be had. Raises CheckpointError.
    """
    if native and device.type == "cpu" and dtype == DTYPE:
        try:
            kernels = library.load(library.default_cache())
            model = load_native(directory, block_tokens=block_tokens, library=kernels)
            return model, partial(NativePass, model)
        except NativeError as error:
            _check_memory(directory, error)
            _log.warning("computing with torch alone, which is slower: %s", error)
    plain = load_model(directory, block_tokens=block_tokens, dtype=dtype, device=device)
    return plain, partial(TorchPass, plain, batch_sizes=batch_sizes)


def _check_memory(directory: Path, error: NativeError) -> None:
    """Raises CheckpointError for a model that torch, which unpacks experts, cannot hold here."""
    needed_bytes = expert_bytes(read_config(directory))
    with suppress(OSError):  # a machine that does not tell its memory
        if needed_bytes > machine.memory_bytes():
            raise CheckpointError(
                f"{directory}: experts that torch computes with take {needed_bytes / 1e9:.0f} GB, "
                f"more than there is here; without torch: {error}"
            )

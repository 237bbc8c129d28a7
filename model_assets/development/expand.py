"""Expands the compact checkpoint to a full one in Hugging Face's layout.

Needs numpy and safetensors only, and about a second.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from model_assets.development import compact as compact_file
from model_assets.development.compact import TABLES, Compact, Tensor
from model_assets.development.shape import config

WEIGHTS_NAME: Final = "model.safetensors"
GENERATION: Final[dict[str, Any]] = {
    "bos_token_id": 199998,
    "do_sample": True,
    "eos_token_id": [200002, 199999, 200012],
    "pad_token_id": 199999,
}


def expand(compact: Path, out: Path) -> None:
    """Writes the checkpoint directory `out` from the compact file: config, weights, generation.

    The directory appears whole or not at all: it is written under a temporary name beside `out`,
    flushed, and renamed. An existing `out` that is not empty is an error (OSError). The same
    compact file gives the same bytes.
    """
    checkpoint = compact_file.read(compact)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write_json(partial / "config.json", config(checkpoint.shape))
        _write_json(partial / "generation_config.json", GENERATION)
        weights = partial / WEIGHTS_NAME
        compact_file.write_tensors(weights, full_tensors(checkpoint), {"format": "pt"})
        for path in (*partial.iterdir(), partial):
            _flush(path)
        partial.chmod(0o755)
        partial.rename(out)
        _flush(out.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def full_tensors(checkpoint: Compact) -> dict[str, Tensor]:
    """Returns all tensors with vocabulary tables of [vocab_size, hidden].

    Every id without a row of its own has the values of the compact tables' last row.
    """
    rows = np.full(checkpoint.shape.vocab_size, len(checkpoint.ids), dtype=np.int64)
    rows[checkpoint.ids] = np.arange(len(checkpoint.ids))
    tensors = dict(checkpoint.tensors)
    for name in TABLES:
        table = tensors[name]
        tensors[name] = Tensor(table.dtype, table.bits[rows])
    return tensors


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    path.chmod(0o644)


def _flush(path: Path) -> None:
    """Makes a file or directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

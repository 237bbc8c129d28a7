"""Makes a random checkpoint an engine directory that the service can serve."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import model_assets
from benchmarks.checkpoints import CheckpointShape
from serving.boundary import engine
from serving.boundary.engine import (
    Architecture,
    CudaGraphs,
    Device,
    Engine,
    File,
    KvCache,
    Limits,
    Mesh,
    Model,
    Precision,
)

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"


def write(directory: Path, shape: CheckpointShape, checkpoint: Path, limits: Limits) -> None:
    """Makes `directory` an embedded engine of the checkpoint, whose files are linked, not copied.

    Its cache holds every sequence of a full batch at its greatest length.
    """
    paths = [_place(file, directory / engine.CHECKPOINT_DIRECTORY) for file in _files(checkpoint)]
    paths.append(_place(RANKS, (directory / engine.RANKS_PATH).parent))
    cache_tokens = limits.max_batch_size * limits.max_seq_len
    manifest = Engine(
        schema_version=engine.SCHEMA_VERSION,
        name=f"random-{shape.name}",
        runtime="embedded",
        runtime_version="benchmark",
        model=Model(
            name="random", repository="random", revision=f"seed {shape.seed}", stand_in=True
        ),
        architecture=Architecture(
            num_hidden_layers=shape.num_layers,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_local_experts=shape.num_experts,
            num_experts_per_tok=shape.experts_per_token,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            sliding_window=shape.sliding_window,
            vocab_size=shape.vocab_size,
            max_position_embeddings=shape.max_positions,
        ),
        precision=Precision(weights=shape.experts, activations="auto", kv_cache="auto"),
        mesh=Mesh(),
        limits=limits,
        kv_cache=KvCache(block_tokens=32, max_tokens=cache_tokens),
        cuda_graphs=CudaGraphs(),
        device=Device(kind="cpu"),
        files=tuple(
            File(
                path=path.relative_to(directory).as_posix(),
                size_bytes=path.stat().st_size,
                sha256=engine.sha256(path),
            )
            for path in paths
        ),
    )
    (directory / engine.MANIFEST_NAME).write_bytes(engine.encode(manifest))


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.iterdir() if path.is_file())


def _place(source: Path, directory: Path) -> Path:
    """Links or copies a file into a directory and returns where it is then."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / source.name
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target

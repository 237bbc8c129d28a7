"""Writes an engine directory for the replay runtime: for tests, load tests and demonstrations."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

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
from serving.engines.replay import script as scripts
from serving.engines.replay.runtime import VERSION
from serving.engines.replay.script import Script

LIMITS = Limits(max_batch_size=64, max_num_tokens=8192, max_seq_len=131_072)

# openai/gpt-oss-120b, config.json. The API needs the vocabulary and the context to be true.
ARCHITECTURE = Architecture(
    num_hidden_layers=36,
    hidden_size=2880,
    intermediate_size=2880,
    num_local_experts=128,
    num_experts_per_tok=4,
    num_attention_heads=64,
    num_key_value_heads=8,
    head_dim=64,
    sliding_window=128,
    vocab_size=201_088,
    max_position_embeddings=131_072,
)


def write(
    directory: Path,
    script: Script,
    *,
    ranks: Path,
    limits: Limits = LIMITS,
    name: str = "replay",
    block_tokens: int = 32,
) -> None:
    """Makes `directory` a replay engine that plays `script`.

    `ranks` is the vocabulary, o200k_base.tiktoken.xz; it is hard-linked where that is possible. A
    directory that is one already is replaced file by file, the manifest last.
    """
    linked = directory / engine.RANKS_PATH
    linked.parent.mkdir(parents=True, exist_ok=True)
    linked.unlink(missing_ok=True)
    try:
        os.link(ranks, linked)
    except OSError:
        shutil.copyfile(ranks, linked)
    (directory / scripts.SCRIPT_NAME).write_bytes(scripts.encode(script))
    manifest = Engine(
        schema_version=engine.SCHEMA_VERSION,
        name=name,
        runtime="replay",
        runtime_version=VERSION,
        model=Model(
            name="openai/gpt-oss-120b", repository="replay", revision=VERSION, stand_in=True
        ),
        architecture=ARCHITECTURE,
        precision=Precision(weights="none", activations="none", kv_cache="none"),
        mesh=Mesh(),
        limits=limits,
        kv_cache=KvCache(block_tokens=block_tokens),
        cuda_graphs=CudaGraphs(),
        device=Device(kind="cpu"),
        files=tuple(
            _describe(directory, path) for path in (engine.RANKS_PATH, scripts.SCRIPT_NAME)
        ),
    )
    (directory / engine.MANIFEST_NAME).write_bytes(engine.encode(manifest))


def _describe(directory: Path, path: str) -> File:
    file = directory / path
    return File(path=path, size_bytes=file.stat().st_size, sha256=engine.sha256(file))

"""Small random checkpoints in the published layout."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from engine_build import durable
from engine_build.weights import inventory, tensors
from engine_build.weights.tensor_file import Bytes, Spec, write
from model_assets.development.shape import Shape, config
from model_assets.manifest import CheckpointFile, CheckpointManifest

SMALL = Shape(
    num_hidden_layers=3,
    hidden_size=64,
    intermediate_size=160,
    num_local_experts=4,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=101,
)
"""Five blocks of inner dimension and a vocabulary that no number of ranks divides."""
TINY = Shape(
    num_hidden_layers=1,
    hidden_size=32,
    intermediate_size=32,
    num_local_experts=4,
    num_experts_per_tok=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=10,
)
"""Little, and it can be cut in two."""


def contents(specs: Mapping[str, Spec]) -> dict[str, Bytes]:
    """Returns random bytes for each tensor: E8M0 scales within 14 steps, no infinities."""
    random = np.random.default_rng(5)
    found = {}
    for name, spec in specs.items():
        if name.endswith("_scales"):
            found[name] = random.integers(112, 127, spec.size_bytes, dtype=np.uint8)
        elif spec.dtype == "U8":
            found[name] = random.integers(0, 256, spec.size_bytes, dtype=np.uint8)
        else:
            normal = random.standard_normal(spec.size_bytes // 2).astype(np.float32)
            found[name] = (normal.view(np.uint32) >> 16).astype("<u2").view(np.uint8)
    return found


def numbered(files: int) -> list[str]:
    """Returns the names of a checkpoint's files as they are published."""
    return [f"model-{number:05d}-of-{files - 1:05d}.safetensors" for number in range(files)]


def make(
    directory: Path, shape: Shape = SMALL, files: int = 2, names: Sequence[str] = ()
) -> dict[str, Bytes]:
    """Writes a checkpoint and returns the bytes of its tensors."""
    names = names or numbered(files)
    directory.mkdir(parents=True)
    specs = inventory.checkpoint(shape)
    held = contents(specs)
    weight_map: dict[str, str] = {}

    def stream(name: str) -> Iterator[Bytes]:
        yield held[name]

    for number, file in enumerate(names):
        every = enumerate(specs.items())
        part = {name: spec for i, (name, spec) in every if i % len(names) == number}
        write(directory / file, part, stream)
        weight_map.update(dict.fromkeys(part, file))
    size_bytes = sum(spec.size_bytes for spec in specs.values())
    (directory / tensors.INDEX_NAME).write_bytes(tensors.index(weight_map, size_bytes))
    (directory / tensors.CONFIG_NAME).write_text(json.dumps(config(shape)))
    return held


def describe(directory: Path, shape: Shape, *, hashed: bool = True) -> CheckpointManifest:
    """Returns the manifest of a checkpoint as it is on the disk."""
    return CheckpointManifest(
        name="checkpoint",
        repository="somewhere/checkpoint",
        revision="abc",
        revision_source="these tests",
        license="Apache-2.0",
        stand_in=True,
        architecture=shape,
        files=tuple(
            CheckpointFile(
                path=path.name,
                size_bytes=path.stat().st_size,
                sha256=durable.sha256(path) if hashed else None,
            )
            for path in sorted(directory.iterdir())
        ),
    )

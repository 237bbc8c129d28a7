"""Which tensors the checkpoint of an engine holds, by architecture, precision and mesh; checked.

A checkpoint as published has the tensors of the module `inventory`. Converted weights have others
in their place (`quantise`); an engine that is cut has a file a rank, which `shard` writes.
Only headers are read: what is damaged or of another model shows in milliseconds, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from engine_build.weights import inventory, layout, quantise, shard, tensors
from engine_build.weights.inventory import Sizes
from engine_build.weights.tensor_file import Spec, read_header
from serving.boundary.engine import CHECKPOINT_DIRECTORY, Engine
from serving.engines.embedded.place import Place


class Parallelism(Protocol):
    """How a model is cut: a profile's section or an engine's."""

    @property
    def tensor_parallel(self) -> int: ...
    @property
    def expert_parallel(self) -> int: ...


def is_cut(runtime: str, mesh: Parallelism) -> bool:
    """Tells whether an engine has rank files. TensorRT-LLM cuts the published ones as it loads."""
    return runtime == "embedded" and mesh.tensor_parallel > 1


def whole(sizes: Sizes, weights: str) -> dict[str, Spec]:
    """Returns all tensors of a model whose `precision.weights` these are."""
    return quantise.planned(inventory.checkpoint(sizes), weights)


def cut(sizes: Sizes, weights: str, mesh: Parallelism) -> dict[Place, dict[str, Spec]]:
    """Returns the tensors of each rank. Raises BuildError for a mesh that does not fit."""
    layout.check(sizes, mesh.tensor_parallel, mesh.expert_parallel)
    specs = whole(sizes, weights)
    ranks = layout.places(mesh.tensor_parallel, mesh.expert_parallel)
    return {place: layout.rank_specs(specs, place, sizes) for place in ranks}


def size_bytes(specs: Mapping[str, Spec]) -> int:
    """Returns the bytes of tensors, without their files' headers."""
    return sum(spec.size_bytes for spec in specs.values())


def check(directory: Path, built: Engine) -> None:
    """Returns when an engine's directory holds the tensors that its manifest promises.

    Raises BuildError naming the file, the tensor or field, and what to do. The replay runtime's
    engines hold none.
    """
    if built.runtime == "replay":
        return
    checkpoint = directory / CHECKPOINT_DIRECTORY
    sizes, weights = built.architecture, built.precision.weights
    if is_cut(built.runtime, built.mesh):
        tensors.check_config(checkpoint, sizes)
        for place, expected in cut(sizes, weights, built.mesh).items():
            path = checkpoint / shard.file_name(place)
            found = {name: entry.spec for name, entry in read_header(path).items()}
            tensors.compare(path, found, expected)
        return
    with tensors.open_checkpoint(checkpoint) as opened:
        tensors.check(checkpoint, opened, sizes, whole(sizes, weights))

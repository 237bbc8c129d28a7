"""Writes engine.json: what the profile asked for, what the checkpoint is, what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from pydantic import BaseModel

from engine_build import durable
from engine_build.profiles.profile import Profile
from serving.boundary import engine
from serving.boundary.engine import Architecture, Engine, File, Gate, Golden, Model

Part = TypeVar("Part", bound=msgspec.Struct)


def compose(
    profile: Profile,
    model: Model,
    architecture: Architecture,
    runtime_version: str,
    files: Sequence[File],
) -> Engine:
    """Returns the manifest with its digest. It holds no time, path or host: equal inputs, equal
    digest."""
    bare = Engine(
        schema_version=engine.SCHEMA_VERSION,
        name=profile.name,
        runtime=profile.runtime,
        runtime_version=runtime_version,
        model=model,
        architecture=architecture,
        precision=_convert(profile.precision, engine.Precision),
        mesh=_convert(profile.mesh, engine.Mesh),
        limits=_convert(profile.limits, engine.Limits),
        kv_cache=_convert(profile.kv_cache, engine.KvCache),
        cuda_graphs=_convert(profile.cuda_graphs, engine.CudaGraphs),
        device=_convert(profile.device, engine.Device),
        arguments=profile.arguments,
        files=tuple(sorted(files, key=lambda file: file.path)),
    )
    return _seal(bare)


def with_golden(draft: Engine, golden: Sequence[Golden]) -> Engine:
    """Returns the manifest with the golden results, and the digest that covers them."""
    return _seal(msgspec.structs.replace(draft, golden=tuple(golden)))


def with_gate(draft: Engine, gate: Gate) -> Engine:
    """Returns the manifest with what was measured of its precision."""
    return _seal(msgspec.structs.replace(draft, gate=gate))


def _seal(bare: Engine) -> Engine:
    return msgspec.structs.replace(bare, digest=engine.digest(bare))


def size_bytes(built: Engine) -> int:
    """Returns the bytes of an engine's files."""
    return sum(file.size_bytes for file in built.files)


def write(directory: Path, built: Engine) -> None:
    """Writes engine.json into the directory, whole or not at all."""
    durable.write(directory / engine.MANIFEST_NAME, engine.encode(built))


def _convert(section: BaseModel, kind: type[Part]) -> Part:
    """Returns a profile's section as the manifest's: the same fields under the same names."""
    return msgspec.convert(section.model_dump(), kind)

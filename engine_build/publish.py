"""Puts a finished engine into BentoML's model store, as NAME:VERSION.

The version is the beginning of the engine's digest, so the same engine has the same tag on every
machine, and publishing it twice is no work. The store gets hard links where it can.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from engine_build import durable, manifest
from engine_build.failure import BuildError, ExitCode
from serving.boundary import engine

if TYPE_CHECKING:
    from serving.boundary.engine import Engine

VERSION_DIGITS = 16
STORE_MANIFEST = "model.yaml"
LATEST = "latest"


def version(built: Engine) -> str:
    """Returns the version that the store gives this engine."""
    return built.digest[:VERSION_DIGITS]


def tag(built: Engine) -> str:
    """Returns NAME:VERSION."""
    return f"{built.name}:{version(built)}"


def published(built: Engine, store: Path) -> bool:
    """Tells whether the store holds this engine, whole, under its tag. Hashes nothing."""
    place = store / built.name / version(built)
    if not (place / STORE_MANIFEST).is_file():
        return False
    try:
        return engine.read(place).digest == built.digest
    except engine.EngineError:
        return False


def publish(directory: Path, store: Path, *, replace: bool = False) -> str:
    """Puts the engine of a directory into the store and returns its tag; `latest` points to it.

    An entry appears in the store with one rename, whole. A damaged entry of the same tag is
    replaced, and with `replace` a sound one too. Raises BuildError if the store is not writable.
    """
    built = engine.read(directory)
    place = store / built.name / version(built)
    # Beside the store and not in it: BentoML takes every directory there for a model.
    staging = store.parent / "tmp" / f"engine-{built.name}-{version(built)}"
    durable.remove(staging)
    if replace or not published(built, store):
        entry = _describe(built, staging)
        for file in (*(file.path for file in built.files), engine.MANIFEST_NAME):
            durable.link_or_copy(directory / file, entry / file)
        _copy_cache(directory, entry)
        with durable.storage_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                place.rename(staging / "replaced")
            entry.rename(place)
            durable.sync_directory(place.parent)
        durable.remove(staging)
    _point_latest(store / built.name / LATEST, version(built))
    return tag(built)


def carry_cache(directory: Path, store: Path) -> None:
    """Gives the published entry of an engine what tuning left in its directory."""
    built = engine.read(directory)
    entry = store / built.name / version(built)
    if entry.resolve() == directory.resolve():
        return
    staging = store.parent / "tmp" / f"cache-{built.name}-{version(built)}"
    durable.remove(staging)
    _copy_cache(directory, staging)
    durable.remove(entry / engine.CACHE_DIRECTORY)
    tuned = staging / engine.CACHE_DIRECTORY
    if tuned.is_dir():
        with durable.storage_errors(entry):
            tuned.rename(entry / engine.CACHE_DIRECTORY)
    durable.remove(staging)


def _copy_cache(directory: Path, target: Path) -> None:
    """Copies what tuning left. No links: a runtime rewrites these files in place."""
    tuned = directory / engine.CACHE_DIRECTORY
    if tuned.is_dir():
        with durable.storage_errors(target):
            shutil.copytree(tuned, target / engine.CACHE_DIRECTORY)


def _point_latest(latest: Path, value: str) -> None:
    if not latest.is_file() or latest.read_text(encoding="utf-8").strip() != value:
        durable.write(latest, value.encode())


def _describe(built: Engine, staging: Path) -> Path:
    """Has BentoML write its own description of the model into a store at `staging`.

    Returns the entry's directory, which holds nothing else yet. The engine's files do not pass
    through BentoML, which would copy them twice.
    """
    # The tracker would tell BentoML of every saved model.
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    try:
        import bentoml
        from bentoml._internal.models import ModelStore
    except ImportError as error:
        raise BuildError(
            ExitCode.UNAVAILABLE,
            f"BentoML cannot be imported: {error}",
            "Install requirements.lock, or build with --no-publish",
        ) from error
    with durable.storage_errors(staging):
        staging.mkdir(parents=True)
        with bentoml.models.create(
            tag(built),
            labels=labels(built),
            metadata=metadata(built),
            _model_store=ModelStore(staging),
        ):
            pass
    return staging / built.name / version(built)


def labels(built: Engine) -> dict[str, str]:
    """Returns the labels by which engines are selected in the store."""
    return {
        "runtime": built.runtime,
        "device": _label(built.device.kind),
        "device_count": str(built.device.count),
        "weights": built.precision.weights,
        "activations": built.precision.activations,
        "kv_cache": built.precision.kv_cache,
        "model": _label(built.model.name),
        "revision": _label(built.model.revision),
        "stand_in": str(built.model.stand_in).lower(),
    }


def _label(text: str) -> str:
    """Returns a value that BentoML takes for a label: letters, digits, `-`, `_` and `.`."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in text)
    return plain[:63].strip("-_.")


def metadata(built: Engine) -> dict[str, object]:
    """Returns what the store shows of an engine."""
    return {
        "digest": built.digest,
        "runtime_version": built.runtime_version,
        "repository": built.model.repository,
        "revision": built.model.revision,
        "size_bytes": manifest.size_bytes(built),
    }

"""Checkpoint manifests: what a build may start from, pinned to one revision and to every byte.

One JSON file a checkpoint under `checkpoints/`.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from model_assets.development.shape import Shape

CHECKPOINTS = Path(__file__).parent / "checkpoints"


class ManifestError(ValueError):
    """A manifest that is missing or cannot be read. The message names the file and the field."""


class CheckpointFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file to take. Without `sha256` a build records what it finds on the first fetch."""

    path: str
    size_bytes: int
    sha256: str | None = None


class CheckpointManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a checkpoint comes from, what it is made of and which files belong to it."""

    name: str
    repository: str
    """A repository of huggingface.co, or `model_assets` for a file of this repository."""
    revision: str
    """A full commit id; for a file of this repository its sha256."""
    revision_source: str
    license: str
    stand_in: bool
    """True: not the real model, only its shape."""
    architecture: Shape
    files: tuple[CheckpointFile, ...]
    leave: tuple[str, ...] = ()
    """Patterns of files in the repository that are not fetched: the same weights in other forms."""


def names(directory: Path = CHECKPOINTS) -> tuple[str, ...]:
    """Returns the names of all manifests, sorted."""
    return tuple(sorted(path.stem for path in directory.glob("*.json")))


def read(name: str, directory: Path = CHECKPOINTS) -> CheckpointManifest:
    """Returns the manifest of a checkpoint. Raises ManifestError."""
    path = directory / f"{name}.json"
    try:
        checkpoint = msgspec.json.decode(path.read_bytes(), type=CheckpointManifest)
    except FileNotFoundError:
        known = ", ".join(names(directory)) or "none"
        raise ManifestError(f"{path} is missing; known checkpoints: {known}") from None
    except msgspec.MsgspecError as error:
        raise ManifestError(f"{path}: {error}") from None
    if checkpoint.name != name:
        raise ManifestError(f"{path}: name is {checkpoint.name}")
    return checkpoint

"""Overlays: a purpose laid over an engine profile, as `latency` over `gpt-oss-120b-2xh100`.

An overlay is a part of a profile in config/overlays/; what it gives replaces the profile's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import document
from engine_build.profiles.profile import Profile

OVERLAYS = Path(__file__).resolve().parents[2] / "config" / "overlays"

_OWN = frozenset({"name", "checkpoint", "runtime", "device", "mesh"})
"""What an engine is; a purpose does not change it."""


def names(directory: Path = OVERLAYS) -> list[str]:
    """Returns the names of the overlays in a directory, sorted."""
    return document.names(directory)


def apply(profile: Profile, name: str, directory: Path = OVERLAYS) -> Profile:
    """Returns the profile with the overlay's values; its name ends in the overlay's.

    Raises BuildError that names the file and the key.
    """
    path = directory / f"{name}.yaml"
    values = document.read(path, "overlay", name, names(directory))
    own = sorted(_OWN & values.keys())
    if own:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{path}: {own[0]} says what the engine is, not what it is for",
            "Write it into a profile",
        )
    laid = merge(profile.model_dump(), values) | {"name": f"{profile.name}-{name}"}
    try:
        return Profile.model_validate(laid)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{path} over {profile.name}: {key + ': ' if key else ''}{problem}",
        ) from None


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with what `over` says, objects within objects."""
    merged = dict(base)
    for key, value in over.items():
        known = merged.get(key)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(known, value)
        else:
            merged[key] = value
    return merged

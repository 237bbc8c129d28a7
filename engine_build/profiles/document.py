"""Reading the YAML files that people write: profiles and overlays."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from engine_build.failure import BuildError, ExitCode


def names(directory: Path) -> list[str]:
    """Returns the names of the YAML files in a directory, sorted."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


def read(path: Path, what: str, name: str, known: list[str]) -> Mapping[str, Any]:
    """Returns the mapping in a file, which is a `what` (profile, overlay) asked for as `name`.

    Raises BuildError that names the file, with the nearest of the `known` names if it is missing.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BuildError(
            ExitCode.MISSING, f"there is no {what} {path}", suggest(name, known)
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split())
        raise BuildError(ExitCode.CONFIGURATION, f"{path}: cannot be read: {problem}") from None
    if not isinstance(raw, Mapping):
        raise BuildError(ExitCode.CONFIGURATION, f"{path}: is not a mapping of keys to values")
    return raw


def suggest(name: str, known: list[str]) -> str:
    """Returns advice for a name that is not known: the nearest one, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"Did you mean {near[0]}?"
    return f"Known: {', '.join(known)}" if known else ""

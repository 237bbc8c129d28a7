"""Finds an engine by its directory, name or tag."""

from __future__ import annotations

import os
from pathlib import Path

from engine_build.failure import BuildError, ExitCode
from engine_build.place import State
from serving.boundary.engine import MANIFEST_NAME


def find(name: str, state: State, store: Path) -> Path:
    """Returns the directory of an engine given as a directory, a name, or NAME:VERSION.

    A bare name is an engine that was built here, else the latest of that name in the model store.
    Raises BuildError (MISSING) that says where it looked.
    """
    path = Path(os.path.expanduser(name))
    if (path / MANIFEST_NAME).is_file():
        return path
    model, _, version = name.partition(":")
    tried = [path, state.engine(model)] if not version else [store / model / version]
    if not version or version == "latest":
        tried.append(store / model / _latest(store / model))
    for directory in tried:
        if (directory / MANIFEST_NAME).is_file():
            return directory
    places = ", ".join(str(directory) for directory in tried)
    raise BuildError(
        ExitCode.MISSING,
        f"there is no engine {name}: no {MANIFEST_NAME} in {places}",
        "See `python -m engine_build list`, or build one",
    )


def _latest(model: Path) -> str:
    pointer = model / "latest"
    return pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else "latest"

"""Where xgrammar's C++ core is. Importing this costs nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

NAME = "libxgrammar_bindings.so"


def is_installed() -> bool:
    """Returns whether the core is here, and what it is called through."""
    return importlib.util.find_spec("tvm_ffi") is not None and find() is not None


def find() -> Path | None:
    """Returns the core's file, without importing the package around it; None without one."""
    spec = importlib.util.find_spec("xgrammar")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(place) / NAME
        if path.is_file():
            return path
    return None

"""Where xgrammar's C++ core is. Importing this costs nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

NAME = "libxgrammar_bindings.so"

APART = Path(sys.prefix) / "grammar"
"""Where the core and what it is called through are, beside packages that need another xgrammar:
in an image on TensorRT-LLM's container (deploy/image/join_base.py)."""


def is_installed() -> bool:
    """Returns whether the core is here, and what it is called through."""
    return find() is not None and (_is_apart() or importlib.util.find_spec("tvm_ffi") is not None)


def find() -> Path | None:
    """Returns the core's file, without importing the package around it; None without one."""
    if _is_apart():
        return APART / "xgrammar" / NAME
    spec = importlib.util.find_spec("xgrammar")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(place) / NAME
        if path.is_file():
            return path
    return None


def prefer(path: list[str]) -> None:
    """Puts what is installed apart first in a search path of modules."""
    if _is_apart() and str(APART) not in path:
        path.insert(0, str(APART))


def _is_apart() -> bool:
    return (APART / "xgrammar" / NAME).is_file()

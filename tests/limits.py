"""Runs a command as small containers do: without privileges, a home, a name or a writable disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_UNPRIVILEGED = """
import ctypes, os, sys
# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: without them modes of files hold for root as well.
for capability in (1, 2):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
_NAMELESS = """
import pwd

def unknown(user):
    raise KeyError(f"getpwuid(): uid not found: {user}")

pwd.getpwuid = unknown
"""
_READ_ONLY = """
set -e
mount --make-rprivate /
mount -t tmpfs -o size=4m,noexec "$0" "$0"
mount -o remount,ro,bind /
exec "$@"
"""


def unprivileged(*command: str) -> list[str]:
    """Returns a command line for which no file may be read or written that its mode forbids."""
    return [sys.executable, "-c", _UNPRIVILEGED, *command]


def nameless(directory: Path) -> dict[str, str]:
    """Returns variables with which Python's processes find no name and no home of their user."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(_NAMELESS)
    return {"PYTHONPATH": str(directory), "LANG": "C", "LC_ALL": "C"}


def read_only(scratch: Path, *command: str) -> list[str]:
    """Returns a command line for which nothing can be written but 4 MB in `scratch`, from where
    nothing is run; the command as it is where this user may not mount."""
    scratch.mkdir()
    prefix = ["unshare", "-m", "--", "bash", "-c", _READ_ONLY, str(scratch)]
    try:
        able = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        able = False
    return [*prefix, *command] if able else list(command)


def bare(variables: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment of nothing but PATH and these variables."""
    return {"PATH": os.environ["PATH"], **variables}

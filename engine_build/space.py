"""Free space on a disk, for whatever fetches, converts, packs or unpacks."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine_build.failure import BuildError, ExitCode

SPARE_BYTES = 100_000_000
"""This much stays free."""


def free_bytes(path: Path) -> int:
    """Returns the free bytes of the disk that a path is on, or will be on."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def check(path: Path, needed_bytes: int) -> None:
    """Raises BuildError (STORAGE) when a file or directory of this size does not fit."""
    free = free_bytes(path)
    if free < needed_bytes + SPARE_BYTES:
        raise BuildError(
            ExitCode.STORAGE,
            f"{path}: {needed_bytes / 1e9:.1f} GB are to be written, {free / 1e9:.1f} GB are free",
            "Free some space, or choose a larger disk: GPT_OSS_STATE names the directory of builds",
        )

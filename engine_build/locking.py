"""One process at a time writes a directory, and an engine appears in it whole."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine_build import durable
from engine_build.progress import Steps


@contextmanager
def locked(lock: Path, steps: Steps, other: str = "another build of this engine") -> Iterator[None]:
    """Holds a lock; waits while `other` holds it. The kernel frees the lock of a dead process."""
    with durable.storage_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with steps.step(f"Waiting for {other}"):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def swap(work: Path, directory: Path, replaced: Path) -> None:
    """Gives the finished work directory the engine's name. At no moment is there half an engine."""
    durable.remove(replaced)
    with durable.storage_errors(directory):
        if directory.exists():
            directory.rename(replaced)
        work.rename(directory)
        durable.sync_directory(directory.parent)
    durable.remove(replaced)

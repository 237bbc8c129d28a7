"""Who may write an engine's directory: one process at a time, and never by halves."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine_build import durable
from engine_build.progress import Steps


@contextmanager
def alone(lock: Path, steps: Steps) -> Iterator[None]:
    """Holds the engine's lock; waits for another build of it. The kernel frees a dead one's."""
    with durable.explained(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with steps.step("Waiting for another build of this engine"):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def swap(work: Path, directory: Path, replaced: Path) -> None:
    """Gives the finished work directory the engine's name. At no moment is there half an engine."""
    durable.remove(replaced)
    with durable.explained(directory):
        if directory.exists():
            directory.rename(replaced)
        work.rename(directory)
        durable.sync_directory(directory.parent)
    durable.remove(replaced)

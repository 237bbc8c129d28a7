"""Which of the processes that share a store live: each holds a lock that ends with it.

The kernel gives the lock back however the process ends. So a response is lost at the moment in
which its process is, and not while a process waits for a disk or a database.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path


class Owner:
    """This process among those that use the store in `path`. Its lock is taken with `name`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name: str | None = None
        self._lock: int | None = None

    def name(self) -> str:
        """Returns the name under which this process is alive now. Raises OSError."""
        if self._name is None or not _file(self._path, self._name).exists():
            self.release()
            name = secrets.token_hex(8)
            lock = os.open(_file(self._path, name), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                raise
            self._name, self._lock = name, lock
        return self._name

    def lives(self, name: str) -> bool:
        """Returns whether the process of that name lives; one that cannot be asked does."""
        if name == self._name:
            return True
        try:
            lock = os.open(_file(self._path, name), os.O_RDONLY)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(lock)
        with suppress(OSError):
            _file(self._path, name).unlink()
        return False

    def release(self) -> None:
        """Gives the lock back: this process makes nothing any more. Idempotent."""
        if self._lock is not None and self._name is not None:
            with suppress(OSError):
                _file(self._path, self._name).unlink()
            os.close(self._lock)
            self._lock = self._name = None


def _file(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name}-owner-{name}")

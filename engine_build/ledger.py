"""Which files of a directory are finished, so that a step that was killed goes on where it was.

An entry is written after its file. It says what the file was made from, what it holds, and what the
step learnt. Size and time of change tell whether anyone has touched the file since.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from engine_build import durable
from engine_build.durable import Advance

NAME = ".ledger.json"
NOTHING = msgspec.Raw(b"null")


class FinishedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. `findings` is JSON: what the step learnt while it made the file."""

    source: str
    size_bytes: int
    changed_nanoseconds: int
    sha256: str
    findings: msgspec.Raw = NOTHING


class Ledger:
    """The finished files of a directory. An unreadable ledger is an empty one."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._files = durable.read_json(self._path, dict[str, FinishedFile]) or {}
        self._lock = threading.Lock()

    def once(
        self,
        name: str,
        path: Path,
        source: str,
        make: Callable[[], tuple[str, msgspec.Raw]],
        advance: Advance = durable.ignore,
    ) -> FinishedFile:
        """Returns the entry of the file at `path` that was made from `source`.

        `make` makes the file unless it is finished, and returns its sha256 and the findings.
        `advance` is told of the bytes of a finished file. Threads may call this for different
        files.
        """
        earlier = self._files.get(name)
        if earlier is not None and earlier.source == source and _is_untouched(path, earlier):
            advance(earlier.size_bytes)
            return earlier
        sha256, findings = make()
        found = path.stat()
        entry = FinishedFile(
            source=source,
            size_bytes=found.st_size,
            changed_nanoseconds=found.st_mtime_ns,
            sha256=sha256,
            findings=findings,
        )
        with self._lock:
            self._files[name] = entry
            durable.write(self._path, msgspec.json.encode(self._files))
        return entry


def _is_untouched(path: Path, entry: FinishedFile) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return (found.st_size, found.st_mtime_ns) == (entry.size_bytes, entry.changed_nanoseconds)

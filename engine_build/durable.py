"""Files that are whole or absent, whenever the process dies."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from engine_build.failure import BuildError, ExitCode

PIECE_BYTES = 8 * 1024 * 1024
HASHED_BYTES = 1024 * 1024
"""Small enough to stay in a core's cache between reading and hashing."""

Content = TypeVar("Content")
Advance = Callable[[int], None]
"""Told of every piece of work done, in bytes."""


def ignore(_done_bytes: int) -> None:
    """An Advance for work that nobody watches."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into a BuildError that names the file."""
    try:
        yield
    except OSError as error:
        advice = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "Free some space and run the same command again: it goes on from here"
        raise BuildError(
            ExitCode.STORAGE, f"{path}: cannot be written: {error.strerror}", advice
        ) from error


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory survive a power cut."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name, flushes it, and gives it its name."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_directory(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Writes a value as JSON for people and machines. The file is whole or absent."""
    write(path, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def read_json(path: Path, kind: type[Content]) -> Content | None:
    """Returns what a JSON file holds; None for a file that is missing or holds something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def link_or_copy(source: Path, target: Path, advance: Advance = ignore) -> None:
    """Makes `target` the same file as `source`: a hard link, or a copy where links cannot be.

    A copy reports its bytes to `advance`; a link moves none.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.unlink(missing_ok=True)
        try:
            # A symbolic link is followed first: download caches are made of them.
            os.link(source.resolve(strict=True), partial)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
            _copy(source, partial, advance)
        partial.replace(target)
        sync_directory(target.parent)


def _copy(source: Path, target: Path, advance: Advance) -> None:
    with source.open("rb") as read, target.open("wb") as written:
        while piece := read.read(PIECE_BYTES):
            written.write(piece)
            advance(len(piece))
        written.flush()
        os.fsync(written.fileno())


def sha256(path: Path, advance: Advance = ignore) -> str:
    """Returns the sha256 (hex) of a file, read in pieces that are reported to `advance`."""
    state = hashlib.sha256()
    # One buffer: a new one for each piece costs the kernel as much as a tenth of the hash.
    buffer = bytearray(HASHED_BYTES)
    with path.open("rb", buffering=0) as file, memoryview(buffer) as view:
        _read_on(file.fileno())
        while count := file.readinto(buffer):
            state.update(view[:count])
            advance(count)
    return state.hexdigest()


def _read_on(descriptor: int) -> None:
    """Tells the kernel that a file is read from beginning to end, where it takes such advice."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)


def begin_writing(descriptor: int, start_bytes: int, size_bytes: int) -> None:
    """Asks the kernel to start writing a part of a file to the disk, and does not wait.

    Linux starts to write what it is told is not needed. Other systems do nothing.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start_bytes, size_bytes, os.POSIX_FADV_DONTNEED)


def digest(content: bytes) -> str:
    """Returns the sha256 (hex) of bytes in memory."""
    return hashlib.sha256(content).hexdigest()


def remove(directory: Path) -> None:
    """Deletes a directory, if there is one. A half-deleted one has another name."""
    doomed = directory.with_name(f".{directory.name.lstrip('.')}.doomed")
    with storage_errors(directory):
        if doomed.exists():
            shutil.rmtree(doomed)
        if directory.exists():
            directory.rename(doomed)
            shutil.rmtree(doomed)

"""Puts an engine's files into its work directory, one by one, and remembers each finished one.

A record beside the files says which are done, so that a build that was interrupted goes on where
it stopped and reads no finished file twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine_build import durable
from engine_build.durable import Advance
from engine_build.failure import BuildError, ExitCode
from serving.boundary.engine import File

RECORD_NAME = "assembled.json"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that the engine shall hold at `path`; None where the contents are not known before."""

    path: str
    origin: Path
    size_bytes: int
    sha256: str | None = None


class _Done(msgspec.Struct, frozen=True):
    """A file in place. Size and time of change tell whether anyone touched it since."""

    size_bytes: int
    changed_nanoseconds: int
    origin_changed_nanoseconds: int
    sha256: str


def assemble(wanted: Sequence[Wanted], work: Path, advance: Advance = durable.ignore) -> list[File]:
    """Returns the files of the engine, in place, flushed and hashed, sorted by path.

    `advance` is told of each byte of `wanted` once, when it is hashed or was done before.
    Raises BuildError (DATA) that names the first file whose contents are not the wanted ones.
    """
    record = work / RECORD_NAME
    done = _read(record)
    for file in wanted:
        if _finished(file, work / file.path, done.get(file.path)):
            advance(file.size_bytes)
            continue
        done[file.path] = _put(file, work / file.path, advance)
        durable.write(record, msgspec.json.encode(done))
    _drop_strangers({file.path for file in wanted} | {RECORD_NAME}, work)
    return [
        File(path=path, size_bytes=done[path].size_bytes, sha256=done[path].sha256)
        for path in sorted(file.path for file in wanted)
    ]


def hashed(wanted: Sequence[Wanted], record: Path, advance: Advance = durable.ignore) -> list[File]:
    """Returns the files as they are where they come from, hashed, in their order.

    `record` is a file that remembers what an earlier call hashed. Raises BuildError (DATA) that
    names the first file whose contents are not the wanted ones.
    """
    done = _read(record)
    for file in wanted:
        if _finished(file, file.origin, done.get(file.path)):
            advance(file.size_bytes)
            continue
        done[file.path] = _hash(file, file.origin, advance)
        durable.write(record, msgspec.json.encode(done))
    return [
        File(path=file.path, size_bytes=file.size_bytes, sha256=done[file.path].sha256)
        for file in wanted
    ]


def lend(wanted: Sequence[Wanted], room: Path) -> None:
    """Makes `room` a directory in which the files can be read, unhashed: symbolic links."""
    durable.remove(room)
    with durable.explained(room):
        for file in wanted:
            target = room / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file.origin.absolute())


def forget(work: Path) -> None:
    """Deletes the record: the engine is complete and its manifest takes over."""
    (work / RECORD_NAME).unlink(missing_ok=True)


def _read(record: Path) -> dict[str, _Done]:
    """Returns what is recorded as done; an unreadable record means that nothing is."""
    try:
        return msgspec.json.decode(record.read_bytes(), type=dict[str, _Done])
    except (FileNotFoundError, msgspec.MsgspecError):
        return {}


def _finished(file: Wanted, target: Path, done: _Done | None) -> bool:
    """Tells whether the target still is what was recorded, and that is what is wanted."""
    if done is None or done.size_bytes != file.size_bytes:
        return False
    try:
        found, origin = target.stat(), file.origin.stat()
    except FileNotFoundError:
        return False
    untouched = (found.st_size, found.st_mtime_ns) == (done.size_bytes, done.changed_nanoseconds)
    if file.sha256 is None:
        return untouched and origin.st_mtime_ns == done.origin_changed_nanoseconds
    return untouched and file.sha256 == done.sha256


def _put(file: Wanted, target: Path, advance: Advance) -> _Done:
    durable.place(file.origin, target)
    try:
        # The bytes in place are hashed, not those that were read, so a bad copy does not pass.
        return _hash(file, target, advance)
    except BuildError:
        target.unlink()
        raise


def _hash(file: Wanted, path: Path, advance: Advance) -> _Done:
    """Returns what is at `path`. Raises BuildError (DATA) unless it is what is wanted."""
    sha256 = durable.sha256(path, advance)
    found = path.stat()
    if found.st_size != file.size_bytes or file.sha256 not in (None, sha256):
        raise BuildError(
            ExitCode.DATA,
            f"{file.origin} has {found.st_size} bytes and sha256 {sha256}; its manifest says "
            f"{file.size_bytes} bytes and sha256 {file.sha256}",
            "Fetch this file again",
        )
    return _Done(found.st_size, found.st_mtime_ns, file.origin.stat().st_mtime_ns, sha256)


def _drop_strangers(known: set[str], work: Path) -> None:
    """Deletes what an earlier build with other files, or a killed one, left in the directory."""
    for path in sorted(work.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(work).as_posix() not in known:
            path.unlink()

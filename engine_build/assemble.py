"""Puts an engine's files into its work directory, one by one. A ledger names the finished ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine_build import durable, ledger
from engine_build.durable import Advance
from engine_build.failure import BuildError, ExitCode
from engine_build.ledger import FinishedFile, Ledger
from serving.boundary.engine import File


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file for the engine, at `path` in it. `sha256` is None where it is not known yet."""

    path: str
    origin: Path
    size_bytes: int
    sha256: str | None = None


def assemble(
    wanted: Sequence[PlannedFile], work: Path, advance: Advance = durable.ignore
) -> list[File]:
    """Returns the files of the engine, in place, flushed and hashed, sorted by path.

    `advance` is told of each byte of `wanted` once, when it is hashed or was done before.
    Raises BuildError (DATA) that names the first file whose contents are not the wanted ones.
    """
    finished = Ledger(work)
    files = [_file(file, _once(finished, file, work / file.path, _put, advance)) for file in wanted]
    _drop_strangers({file.path for file in wanted} | {ledger.NAME}, work)
    return sorted(files, key=lambda file: file.path)


def hashed(
    wanted: Sequence[PlannedFile], finished: Ledger, advance: Advance = durable.ignore
) -> list[File]:
    """Returns the files as they are where they come from, hashed, in their order.

    `finished` remembers what an earlier call hashed. Raises BuildError (DATA) that names the first
    file whose contents are not the wanted ones.
    """
    return [_file(file, _once(finished, file, file.origin, _hash, advance)) for file in wanted]


def link(wanted: Sequence[PlannedFile], directory: Path) -> None:
    """Fills `directory` with symbolic links to the files. Hashes nothing."""
    durable.remove(directory)
    with durable.storage_errors(directory):
        for file in wanted:
            target = directory / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file.origin.absolute())


def remove_ledger(work: Path) -> None:
    """Deletes the ledger: the engine is complete and its manifest takes over."""
    (work / ledger.NAME).unlink(missing_ok=True)


def _once(
    finished: Ledger,
    file: PlannedFile,
    path: Path,
    make: Callable[[PlannedFile, Path, Advance], str],
    advance: Advance,
) -> FinishedFile:
    contents = file.sha256 or f"changed {file.origin.stat().st_mtime_ns}"
    source = f"{file.size_bytes} bytes, {contents}"
    return finished.once(
        file.path, path, source, lambda: (make(file, path, advance), ledger.NOTHING), advance
    )


def _file(file: PlannedFile, found: FinishedFile) -> File:
    return File(path=file.path, size_bytes=found.size_bytes, sha256=found.sha256)


def _put(file: PlannedFile, target: Path, advance: Advance) -> str:
    durable.link_or_copy(file.origin, target)
    try:
        # The bytes in place are hashed, not those that were read, so a bad copy does not pass.
        return _hash(file, target, advance)
    except BuildError:
        target.unlink()
        raise


def _hash(file: PlannedFile, path: Path, advance: Advance) -> str:
    """Returns the sha256 of what is at `path`. Raises BuildError (DATA) for other contents."""
    sha256 = durable.sha256(path, advance)
    size_bytes = path.stat().st_size
    if size_bytes != file.size_bytes or file.sha256 not in (None, sha256):
        raise BuildError(
            ExitCode.DATA,
            f"{file.origin} has {size_bytes} bytes and sha256 {sha256}; its manifest says "
            f"{file.size_bytes} bytes and sha256 {file.sha256}",
            "Fetch this file again",
        )
    return sha256


def _drop_strangers(known: set[str], work: Path) -> None:
    """Deletes the files of an earlier build, or of one that was killed."""
    for path in sorted(work.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(work).as_posix() not in known:
            path.unlink()

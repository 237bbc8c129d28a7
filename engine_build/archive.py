"""An engine as one tar file, for machines without a network.

    NAME/engine.json     first, so that a reader knows what follows
    NAME/<each file>     in the manifest's order

No compression: weights do not compress. No times and no owners, so that an engine has one archive.
What tuning left (cache/) stays behind: it belongs to the machine that tuned.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from engine_build import durable, manifest, space
from engine_build.durable import Advance
from engine_build.failure import BuildError, ExitCode
from engine_build.locking import locked, swap
from engine_build.place import State
from engine_build.progress import Steps
from serving.boundary import engine
from serving.boundary.engine import MANIFEST_NAME, Engine, EngineError, File

MOST_MANIFEST_BYTES = 64 * 1024 * 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def export(directory: Path, target: Path, advance: Advance = durable.ignore) -> Engine:
    """Writes the engine of a directory into a tar file, whole or not at all, and returns it.

    Every file is hashed on its way. Raises EngineError naming one that has changed, BuildError
    (STORAGE) before the first byte when there is no space.
    """
    built = engine.read(directory)
    space.check(target.absolute(), manifest.size_bytes(built))
    partial = target.with_name(f".{target.name}.partial")
    with durable.storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                    _add_manifest(archive, built)
                    for one in built.files:
                        _add(archive, built.name, directory, one, advance)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        durable.sync_directory(target.absolute().parent)
    return built


def import_engine(
    source: Path, state: State, steps: Steps, *, force: bool = False
) -> tuple[Path, bool]:
    """Makes the engine of a tar file one of this machine; returns where, and whether it is new.

    Every file is hashed on its way, and the engine gets its place when all are there. An engine
    that is here already is left alone unless `force`. Raises BuildError naming what is wrong.
    """
    with _opened(source) as archive:
        members = iter(archive)
        built = _manifest(archive, members, source)
        directory = state.engine(built.name)
        with locked(state.lock(built.name), steps):
            if not force and _here(directory, built):
                return directory, False
            work = state.incoming(built.name)
            durable.remove(work)
            space.check(state.root, manifest.size_bytes(built))
            step = "Unpacking and hashing the engine's files"
            try:
                with steps.step(step, manifest.size_bytes(built)) as advance:
                    _unpack(archive, members, built, work, source, advance)
            except BaseException:
                durable.remove(work)  # it may be large, and nothing of it is used again
                raise
            durable.write(work / MANIFEST_NAME, engine.encode(built))
            swap(work, directory, state.replaced(built.name))
    return directory, True


def _add_manifest(archive: tarfile.TarFile, built: Engine) -> None:
    content = engine.encode(built)
    archive.addfile(_entry(f"{built.name}/{MANIFEST_NAME}", len(content)), io.BytesIO(content))


def _add(archive: tarfile.TarFile, name: str, root: Path, one: File, advance: Advance) -> None:
    with (root / one.path).open("rb") as file:
        hashing = _Hashing(file, advance)
        archive.addfile(_entry(f"{name}/{one.path}", one.size_bytes), hashing)
        sha256 = hashing.digest.hexdigest()
        if sha256 != one.sha256:
            raise EngineError(
                f"{root / one.path} has changed: sha256 {sha256}, engine.json says {one.sha256}"
            )


def _entry(name: str, length: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = length
    return entry


class _Hashing:
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: IO[bytes], advance: Advance) -> None:
        self.digest = hashlib.sha256()
        self._file = file
        self._advance = advance

    def read(self, size: int = -1, /) -> bytes:
        piece = self._file.read(size)
        self.digest.update(piece)
        self._advance(len(piece))
        return piece


@contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    """Yields an archive that is read once, from beginning to end. Raises BuildError."""
    try:
        with tarfile.open(source, mode="r|", bufsize=durable.PIECE_BYTES) as archive:
            yield archive
    except FileNotFoundError:
        raise BuildError(ExitCode.MISSING, f"{source} is not there") from None
    except tarfile.TarError as error:
        raise _damaged(source, str(error)) from None
    except OSError as error:
        raise BuildError(ExitCode.STORAGE, f"{source}: {error.strerror or error}") from error


def _manifest(archive: tarfile.TarFile, members: Iterator[tarfile.TarInfo], source: Path) -> Engine:
    """Returns the manifest at the beginning of an archive. Its paths stay inside the engine."""
    first = next(members, None)
    if first is None or not first.isreg() or PurePosixPath(first.name).name != MANIFEST_NAME:
        raise _damaged(source, f"it does not begin with an {MANIFEST_NAME}")
    file = archive.extractfile(first)
    if file is None or first.size > MOST_MANIFEST_BYTES:
        raise _damaged(source, f"its {MANIFEST_NAME} has {first.size} bytes")
    built = engine.decode(file.read(), source / MANIFEST_NAME)
    if not _NAME.fullmatch(built.name) or first.name != f"{built.name}/{MANIFEST_NAME}":
        raise _damaged(source, f"{built.name!r} is no name for the engine in {first.name!r}")
    for one in built.files:
        path = PurePosixPath(one.path)
        if path.is_absolute() or ".." in path.parts or one.path != str(path) or "\0" in one.path:
            raise _damaged(source, f"{one.path!r} is no path inside an engine")
    return built


def _unpack(
    archive: tarfile.TarFile,
    members: Iterator[tarfile.TarInfo],
    built: Engine,
    work: Path,
    source: Path,
    advance: Advance,
) -> None:
    """Writes the files of the manifest, and nothing else that an archive may hold."""
    left = {f"{built.name}/{one.path}": one for one in built.files}
    for member in members:
        one = left.pop(member.name, None)
        file = archive.extractfile(member) if one is not None and member.isreg() else None
        if one is None or file is None:
            raise _damaged(source, f"it holds {member.name!r}, which is no file of the engine")
        found = _write(file, work / one.path, advance)
        if (member.size, found) != (one.size_bytes, one.sha256):
            raise _damaged(
                source,
                f"{one.path} has {member.size} bytes and sha256 {found}, its manifest says "
                f"{one.size_bytes} bytes and sha256 {one.sha256}",
            )
    if left:
        raise _damaged(source, f"{next(iter(left.values())).path} is missing")


def _write(file: IO[bytes], target: Path, advance: Advance) -> str:
    """Writes and flushes one file, and returns the sha256 of what was written."""
    state = hashlib.sha256()
    with durable.storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as written:
            while piece := file.read(durable.PIECE_BYTES):
                written.write(piece)
                state.update(piece)
                advance(len(piece))
            written.flush()
            os.fsync(written.fileno())
    return state.hexdigest()


def _here(directory: Path, built: Engine) -> bool:
    try:
        return engine.read(directory).digest == built.digest
    except EngineError:
        return False


def _damaged(source: Path, what: str) -> BuildError:
    return BuildError(ExitCode.DATA, f"{source} is no whole engine: {what}", "Export it again")

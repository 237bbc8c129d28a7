"""Files that a step makes one by one, each remembered, so that a killed step goes on where it was.

A record stands beside each finished file, written after it. It says from what the file was made
and what came of it; a file whose record fits is not made again. Records begin with a dot and stay
until whoever owns the directory deletes it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from engine_build import durable
from engine_build.durable import Advance
from engine_build.weights.tensor_file import Written

Found = TypeVar("Found")


class Made(msgspec.Struct, Generic[Found], frozen=True, kw_only=True):
    """One finished file. `findings` is what the step learnt while it made it."""

    source: str
    size_bytes: int
    sha256: str
    changed_nanoseconds: int
    findings: Found


def once(
    path: Path,
    source: str,
    make: Callable[[], tuple[Written, Found]],
    kind: type[Made[Found]],
    advance: Advance = durable.ignore,
) -> Made[Found]:
    """Returns the file made from `source`: an earlier one if it is whole, else that of `make`.

    `advance` is told of the bytes of an earlier one, which `make` does not write again.
    """
    record = path.with_name(f".{path.name}.made")
    earlier = _read(record, kind)
    if earlier is not None and earlier.source == source and _untouched(path, earlier):
        advance(earlier.size_bytes)
        return earlier
    record.unlink(missing_ok=True)
    written, findings = make()
    made = kind(
        source=source,
        size_bytes=written.size_bytes,
        sha256=written.sha256,
        changed_nanoseconds=path.stat().st_mtime_ns,
        findings=findings,
    )
    durable.write(record, msgspec.json.encode(made))
    return made


def _read(record: Path, kind: type[Made[Found]]) -> Made[Found] | None:
    try:
        return msgspec.json.decode(record.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _untouched(path: Path, made: Made[Found]) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return (found.st_size, found.st_mtime_ns) == (made.size_bytes, made.changed_nanoseconds)

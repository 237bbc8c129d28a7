"""One safetensors file: read through a memory map, written as a stream.

Format (huggingface/safetensors, version 0.3 and later): eight bytes with the length of the header,
little endian; the header, JSON; the data. The header gives each tensor's dtype, shape and place in
the data; places follow each other without gap or overlap and fill the file. Tensors are written in
the order of the reference implementation, by dtype and by name within one, so equal tensors give
equal bytes.

Neither reading nor writing holds more than a piece of a tensor in memory.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine_build import durable
from engine_build.durable import Advance
from engine_build.failure import BuildError, ExitCode

DTYPE_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F8_E8M0": 1, "F8_E4M3": 1, "I8": 1, "U8": 1}
"""The dtypes of checkpoints, engines and rank files, in the order of their tensors in a file."""
LENGTH_BYTES = 8
LARGEST_HEADER_BYTES = 100_000_000
"""The bound of the reference implementation."""
HEADER_ALIGNMENT_BYTES = 8
PIECE_BYTES = 16 * 1024 * 1024
AHEAD_BYTES = 4 * PIECE_BYTES
"""How far ahead of the released bytes the kernel is asked to read."""
FLUSH_BYTES = 2 * PIECE_BYTES
"""After so many bytes the kernel is asked to write, so that the end waits for few of them."""

Bytes = NDArray[np.uint8]
Contents = Callable[[str], Iterable[Bytes]]
"""Yields the bytes of a named tensor in pieces, each C-contiguous."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a tensor is, without what it holds."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of its data."""
        return DTYPE_BYTES[self.dtype] * prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor in a file; `start_bytes` counts from the beginning of the file."""

    spec: Spec
    start_bytes: int

    @property
    def stop_bytes(self) -> int:
        """Where it ends."""
        return self.start_bytes + self.spec.size_bytes


@dataclass(frozen=True, slots=True)
class Written:
    """A finished file."""

    path: Path
    size_bytes: int
    sha256: str


def damaged(path: Path, problem: str) -> BuildError:
    """Returns the error for a file whose contents cannot be right."""
    return BuildError(ExitCode.DATA, f"{path}: {problem}", "Fetch this file again")


def order(specs: Mapping[str, Spec]) -> list[str]:
    """Returns the names in the order in which a file holds them."""
    places = {dtype: place for place, dtype in enumerate(DTYPE_BYTES)}
    return sorted(specs, key=lambda name: (places[specs[name].dtype], name))


def header(specs: Mapping[str, Spec], metadata: Mapping[str, str] | None = None) -> bytes:
    """Returns the beginning of a file with these tensors, up to where their data begins."""
    content: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order(specs):
        start, end = end, end + specs[name].size_bytes
        spec = specs[name]
        content[name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [start, end]}
    raw = json.dumps(content, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % HEADER_ALIGNMENT_BYTES)
    return len(raw).to_bytes(LENGTH_BYTES, "little") + raw


def read_header(path: Path) -> dict[str, Entry]:
    """Returns the tensors of a file by name, their places checked against the file's size.

    Raises BuildError: MISSING, or DATA naming the file and the tensor that cannot be right.
    """
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            head = file.read(LENGTH_BYTES)
            length = int.from_bytes(head, "little")
            if len(head) < LENGTH_BYTES or size_bytes < LENGTH_BYTES + length:
                raise damaged(
                    path, f"is cut short: it has {size_bytes} bytes, its header is longer"
                )
            if length > LARGEST_HEADER_BYTES:
                raise damaged(path, f"is no safetensors file: a header of {length} bytes")
            raw = file.read(length)
    except FileNotFoundError:
        raise BuildError(ExitCode.MISSING, f"{path} is missing", "Fetch it") from None
    except OSError as error:
        raise BuildError(ExitCode.STORAGE, f"{path}: cannot be read: {error.strerror}") from error
    try:
        content = json.loads(raw)
    except ValueError:
        raise damaged(path, "is no safetensors file: its header is not JSON") from None
    if not isinstance(content, dict):
        raise damaged(path, "is no safetensors file: its header is not an object")
    content.pop("__metadata__", None)
    start = LENGTH_BYTES + length
    entries = {name: _entry(path, name, raw, start) for name, raw in content.items()}
    _check_places(path, entries, start, size_bytes)
    return entries


def _entry(path: Path, name: str, raw: object, data_bytes: int) -> Entry:
    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data_offsets"}:
        raise damaged(path, f"{name}: its entry in the header is not one of a tensor")
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if dtype not in DTYPE_BYTES:
        known = ", ".join(DTYPE_BYTES)
        raise damaged(path, f"{name}: dtype {dtype!r} is none of {known}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise damaged(path, f"{name}: shape {shape} or data_offsets {offsets} cannot be")
    spec = Spec(dtype, tuple(shape))
    if offsets[1] - offsets[0] != spec.size_bytes:
        found = offsets[1] - offsets[0]
        raise damaged(path, f"{name}: {spec} is {spec.size_bytes} bytes, its place has {found}")
    return Entry(spec, data_bytes + offsets[0])


def _counts(value: object) -> bool:
    """Tells whether this is a list of whole numbers, none negative."""
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_places(path: Path, entries: dict[str, Entry], start: int, size_bytes: int) -> None:
    end = start
    by_place = sorted(entries.items(), key=lambda item: (item[1].start_bytes, item[1].stop_bytes))
    for name, entry in by_place:
        if entry.start_bytes != end:
            kind = "overlaps" if entry.start_bytes < end else "leaves a gap after"
            raise damaged(path, f"{name}: its data {kind} the tensor before it")
        end = entry.stop_bytes
        if end > size_bytes:
            raise damaged(path, f"is cut short within {name}: {size_bytes} bytes, {end} needed")
    if end != size_bytes:
        raise damaged(path, f"has {size_bytes - end} bytes after its last tensor")


class TensorFile:
    """A file of tensors under a memory map. Use `open_file`."""

    def __init__(self, path: Path, entries: dict[str, Entry], memory: mmap.mmap) -> None:
        self.path = path
        self.entries = entries
        self._memory = memory
        self._bytes: Bytes = np.frombuffer(memory, np.uint8)

    def raw(self, name: str) -> Bytes:
        """Returns the bytes of a tensor as (*shape, bytes of an item), read when touched.

        The array is a view of the map: it must not outlive the file.
        """
        entry = self.entries[name]
        item = DTYPE_BYTES[entry.spec.dtype]
        flat = self._bytes[entry.start_bytes : entry.stop_bytes]
        return flat.reshape(*entry.spec.shape, item)

    def release(self, name: str, start_bytes: int = 0, stop_bytes: int | None = None) -> None:
        """Gives the memory of a tensor, or of a part that is done with, back to the kernel.

        Bytes are read in their order, so it is asked for those that follow.
        """
        entry = self.entries[name]
        stop = entry.stop_bytes
        if stop_bytes is not None:
            stop = min(stop, entry.start_bytes + stop_bytes)
        start = (entry.start_bytes + start_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if start < stop:
            self._memory.madvise(mmap.MADV_DONTNEED, start, stop - start)
            # As many bytes as were released, so that the kernel is asked once for each.
            begin = start + AHEAD_BYTES
            end = min(stop + AHEAD_BYTES, len(self._memory))
            if begin < end:
                self._memory.madvise(mmap.MADV_WILLNEED, begin, end - begin)

    def close(self) -> None:
        """Unmaps the file; a view that is still held, by a traceback for example, delays that."""
        self._bytes = np.empty(0, np.uint8)
        with suppress(BufferError):
            self._memory.close()


@contextmanager
def open_file(path: Path) -> Iterator[TensorFile]:
    """Maps a file while the context lasts. Raises BuildError as `read_header`."""
    entries = read_header(path)
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    opened = TensorFile(path, entries, memory)
    try:
        yield opened
    finally:
        opened.close()


def pieces(array: Bytes, piece_bytes: int = PIECE_BYTES) -> Iterator[Bytes]:
    """Yields an array's bytes in C order, in contiguous pieces of about `piece_bytes`.

    What lies contiguously in memory is not copied.
    """
    if array.flags.c_contiguous:
        flat = array.reshape(-1)
        for start in range(0, flat.size, piece_bytes):
            yield flat[start : start + piece_bytes]
        return
    row_bytes = array[0].size
    if row_bytes > piece_bytes and array.ndim > 1:
        for row in array:
            yield from pieces(row, piece_bytes)
        return
    rows = max(1, piece_bytes // max(1, row_bytes))
    for start in range(0, len(array), rows):
        yield np.ascontiguousarray(array[start : start + rows]).reshape(-1)


def write(
    path: Path,
    specs: Mapping[str, Spec],
    contents: Contents,
    *,
    metadata: Mapping[str, str] | None = None,
    advance: Advance = durable.ignore,
) -> Written:
    """Writes a file whole or not at all, and returns its size and sha256.

    `contents` is asked for each tensor once, in file order. The file gets its name after its last
    byte is on the disk. Raises BuildError (STORAGE) where the file system refuses; ValueError when
    a tensor's pieces are not as many bytes as its spec says.
    """
    partial = path.with_name(f".{path.name}.partial")
    with durable.storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb", buffering=0) as file:
            growing = _Growing(file.fileno())
            for piece in _stream(specs, contents, metadata):
                growing.add(piece)
                advance(len(piece))
            os.fsync(file.fileno())
        partial.replace(path)
        durable.sync_directory(path.parent)
    return Written(path, growing.size_bytes, growing.digest.hexdigest())


class _Growing:
    """A file that is written: hashed, and on its way to the disk before its end."""

    def __init__(self, descriptor: int) -> None:
        self.digest = hashlib.sha256()
        self.size_bytes = 0
        self._descriptor = descriptor
        self._begun_bytes = 0
        """Up to where the kernel has been asked to write."""

    def add(self, piece: memoryview) -> None:
        for start in range(0, len(piece), durable.HASHED_BYTES):
            part = piece[start : start + durable.HASHED_BYTES]
            _write_all(self._descriptor, part)
            self.digest.update(part)
        self.size_bytes += len(piece)
        waiting_bytes = self.size_bytes - self._begun_bytes
        if waiting_bytes >= FLUSH_BYTES:
            durable.begin_writing(self._descriptor, self._begun_bytes, waiting_bytes)
            self._begun_bytes = self.size_bytes


def _stream(
    specs: Mapping[str, Spec], contents: Contents, metadata: Mapping[str, str] | None
) -> Iterator[memoryview]:
    yield memoryview(header(specs, metadata))
    for name in order(specs):
        count = 0
        for piece in contents(name):
            if not piece.size:
                continue
            view = piece.data.cast("B")
            count += len(view)
            yield view
        if count != specs[name].size_bytes:
            raise ValueError(f"{name}: {count} bytes for {specs[name]}")


def _write_all(descriptor: int, piece: memoryview) -> None:
    """Writes every byte; one call to the kernel may take less."""
    while len(piece):
        piece = piece[os.write(descriptor, piece) :]

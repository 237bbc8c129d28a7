"""The C part of the native forward pass: compiled once for this machine, then loaded.

The structs are those of the C headers, field by field; `load` compares their sizes.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from ctypes import POINTER, c_float, c_int, c_int64, c_void_p
from pathlib import Path

from serving.hosting import machine

SOURCE = Path(__file__).with_name("forward.c")
HEADERS = ("vectors.h", "tiles.h", "int8.h", "matrix.h", "attention.h", "model.h")
COMPILER = "gcc"
# No -ffast-math: sums must keep their order. The two other flags only let loops be vectorised.
# OpenMP is torch's own copy, which is loaded already and has the same name.
FLAGS = (
    *("-O3", "-march=native", "-fPIC", "-shared", "-fopenmp", "-std=gnu11"),
    *("-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"),
)
COMPILE_SECONDS = 120.0


class NativeError(Exception):
    """There are no native kernels here. The message says why, in one line."""


class _NotRunnableError(NativeError):
    """What was compiled cannot be loaded from where it is: its disk is mounted `noexec`."""


class CMatrix(ctypes.Structure):
    """`Matrix`. The pointers are of tensors that the owner keeps."""

    _fields_ = (
        ("weights", c_void_p),
        ("scales", c_void_p),
        ("row_scales", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
    )


class CHeads(ctypes.Structure):
    """`Heads`."""

    _fields_ = tuple(
        (name, c_int64) for name in ("heads", "kv_heads", "head_dim", "block_tokens", "window")
    )


class CCache(ctypes.Structure):
    """`Cache`."""

    _fields_ = (
        ("keys", c_void_p),
        ("values", c_void_p),
        ("sinks", c_void_p),
        ("sliding", c_int64),
    )


class CLayer(ctypes.Structure):
    """`Layer`."""

    _fields_ = (
        ("attention_norm", c_void_p),
        ("experts_norm", c_void_p),
        *((name, CMatrix) for name in ("qkv", "out", "router", "gate_up", "down")),
        ("cache", CCache),
    )


class CModel(ctypes.Structure):
    """`Model`."""

    _fields_ = (
        ("heads", CHeads),
        *(
            (name, c_int64)
            for name in ("layers", "hidden", "vocabulary", "experts", "per_token", "inner")
        ),
        *((name, c_float) for name in ("epsilon", "alpha", "limit", "magnitude")),
        ("frequencies", c_void_p),
        ("embedding", c_void_p),
        ("layer", POINTER(CLayer)),
        ("final_norm", c_void_p),
        ("head", CMatrix),
    )


class CSpan(ctypes.Structure):
    """`Span`. All its fields are of eight bytes, so spans are rows of a matrix of integers."""

    _fields_ = (
        *((name, c_void_p) for name in ("tokens", "full_table", "sliding_table")),
        *((name, c_int64) for name in ("start", "count", "kept", "samples")),
    )


class CStep(ctypes.Structure):
    """`Step`."""

    _fields_ = (
        ("model", POINTER(CModel)),
        ("spans", c_void_p),
        ("span_count", c_int64),
        ("logits", c_void_p),
        ("room", c_void_p),
        ("threads", c_int),
    )


STRUCTS = (CModel, CLayer, CSpan, CStep)


class Library:
    """The compiled functions."""

    def __init__(self, path: Path) -> None:
        """Loads what `build` has made. Raises NativeError."""
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise _NotRunnableError(f"the compiled kernels cannot be loaded: {error}") from None
        self.forward = library.forward
        self.forward.argtypes = (POINTER(CStep),)
        self.forward.restype = None
        self.room_bytes = library.room_bytes
        self.room_bytes.argtypes = (POINTER(CModel), c_int64, c_int)
        self.room_bytes.restype = c_int64
        sizes = (c_int64 * len(STRUCTS))()
        library.struct_sizes.restype = None
        library.struct_sizes(sizes)
        if list(sizes) != [ctypes.sizeof(struct) for struct in STRUCTS]:
            raise NativeError("the compiled kernels have structs of other sizes")


def load(cache: Path, *, compiler: str = COMPILER, options: Sequence[str] = ()) -> Library:
    """Returns the functions for this machine, compiled first unless `cache` has them.

    A cache directory that cannot be used is done without. `options` are the compiler's, after
    FLAGS. Raises NativeError when there is no compiler or it fails.
    """
    found = shutil.which(compiler)
    if found is None:
        raise NativeError(f"there is no {compiler}")
    command = (found, *FLAGS, *options)
    name = f"forward-{_key(command)}.so"
    if _is_ours(cache):
        path = cache / name
        # A cache from which nothing may be run is no cache.
        with suppress(_NotRunnableError, OSError):
            if not path.is_file():
                _compile(command, path)
            return Library(path)
    try:
        with tempfile.TemporaryDirectory() as room:  # what is loaded outlives its file
            path = Path(room) / name
            _compile(command, path)
            return Library(path)
    except OSError as error:
        raise NativeError(f"there is nowhere to compile: {error.strerror}") from None


def default_cache() -> Path:
    """Returns where this user's programs keep what they can make again."""
    return machine.user_directory("XDG_CACHE_HOME", ".cache") / "gpt-oss-120b" / "native"


def _is_ours(cache: Path) -> bool:
    """Makes the directory; False when it cannot be written, or others could put code into it."""
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = cache.stat()
    except OSError:
        return False
    foreign = found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return not foreign and os.access(cache, os.W_OK)


def _key(command: Sequence[str]) -> str:
    """Returns a hash of all that the result depends on: sources, compiler, flags, processor."""
    version = _run((command[0], "--version"))
    parts = [SOURCE.read_bytes(), *(SOURCE.with_name(name).read_bytes() for name in HEADERS)]
    parts += [version.encode(), " ".join(command).encode(), _processor()]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _processor() -> bytes:
    """Returns the lines of /proc/cpuinfo that say what `-march=native` stands for."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".encode()
    names = (b"model name", b"flags", b"Features", b"CPU part")
    return b"\n".join(sorted({line for line in lines if line.startswith(names)}))


def _compile(command: Sequence[str], path: Path) -> None:
    """Compiles beside `path` and then moves it there, so that a file that exists is whole."""
    with tempfile.TemporaryDirectory(dir=path.parent) as room:
        partial = Path(room) / path.name
        _run((*command, str(SOURCE), "-o", str(partial), "-lm"))
        partial.replace(path)


def _run(command: Sequence[str]) -> str:
    """Returns what a command printed. Raises NativeError with the first line of its complaint."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=COMPILE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeError(f"{command[0]} failed: {error}") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise NativeError(f"{command[0]} failed: {reason}")
    return done.stdout

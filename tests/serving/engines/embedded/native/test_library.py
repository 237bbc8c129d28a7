"""Compiling once, and doing without."""

from __future__ import annotations

import ctypes
import tempfile
from pathlib import Path

import pytest

from serving.engines.embedded.native import library
from serving.engines.embedded.native.library import Library, NativeError

QUICK = ("-O0",)
"""What is only loaded need not be fast."""


def fake_compiler(directory: Path, script: str) -> str:
    path = directory / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_second_load_compiles_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    compiler = fake_compiler(tmp_path, f'echo "$@" >> {tmp_path}/calls\nexec gcc "$@"')
    for _ in range(2):
        assert library.load(cache, compiler=compiler, options=QUICK).forward is not None
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call for call in calls if call != "--version"] == calls[1:2]
    assert [path.suffix for path in cache.iterdir()] == [".so"]


def test_other_options_are_another_file(tmp_path: Path) -> None:
    for options in (QUICK, (*QUICK, "-g")):
        library.load(tmp_path / "cache", options=options)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_without_a_compiler_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(NativeError, match="there is no such-compiler"):
        library.load(tmp_path / "cache", compiler="such-compiler")


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(tmp_path: Path) -> None:
    script = '[ "$1" = --version ] && exit 0\necho "no such flag" >&2\nexit 1'
    with pytest.raises(NativeError, match="failed: no such flag"):
        library.load(tmp_path / "cache", compiler=fake_compiler(tmp_path, script))
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_is_no_library_is_not_loaded(tmp_path: Path) -> None:
    script = 'while [ "$1" != -o ]; do [ "$1" = --version ] && exit 0; shift; done\necho x > "$2"'
    with pytest.raises(NativeError, match="cannot be loaded"):
        library.load(tmp_path / "cache", compiler=fake_compiler(tmp_path, script))


def test_a_directory_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    assert library.load(cache, options=QUICK).forward is not None
    assert list(cache.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert library.load(tmp_path / "file" / "cache", options=QUICK).forward is not None


def test_structs_of_other_sizes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.load(tmp_path, options=QUICK)
    path = next(path for path in tmp_path.iterdir() if path.suffix == ".so")
    monkeypatch.setattr(library, "STRUCTS", (*library.STRUCTS[1:], library.CModel))
    with pytest.raises(NativeError, match="structs of other sizes"):
        Library(path)


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert library.default_cache() == tmp_path / "gpt-oss-120b" / "native"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert library.default_cache() == tmp_path / ".cache" / "gpt-oss-120b" / "native"


def test_a_user_without_a_home_has_the_root_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(user: int) -> object:
        raise KeyError(user)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert library.default_cache() == Path("/.cache/gpt-oss-120b/native")


def test_a_cache_from_which_nothing_is_run_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is mounted `noexec`."""
    cache, load = tmp_path / "cache", ctypes.CDLL

    def guarded(path: str) -> ctypes.CDLL:
        if path.startswith(str(cache)):
            raise OSError(f"{path}: failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", guarded)
    assert library.load(cache, options=QUICK).forward is not None


def test_with_nowhere_to_compile_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nothing"))
    with pytest.raises(NativeError, match="there is nowhere to compile"):
        library.load(tmp_path / "file" / "cache", options=QUICK)
